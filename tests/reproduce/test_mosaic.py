import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from PIL import Image

from sartor.core import DataError
from sartor.reproduce.mosaic import mosaic


def test_the_pictures_are_the_samples() -> None:
    sample = torch.tensor([[-1.0, 1.0], [0.0, 3.0]])
    text = mosaic({"a < b": sample[None].repeat(2, 1, 1), "c": sample[None]}, "A & B")
    tree = ElementTree.fromstring(text)
    images = [node for node in tree if node.tag.endswith("image")]
    assert len(images) == 3
    assert [node.text for node in tree if node.tag.endswith("text")] == ["A & B", "a < b", "c"]
    data = base64.b64decode(images[0].attrib["href"].removeprefix("data:image/png;base64,"))
    pixels = Image.open(io.BytesIO(data))
    assert [pixels.getpixel(at) for at in ((0, 0), (1, 0), (1, 1))] == [0, 255, 255]
    assert abs(pixels.getpixel((0, 1)) - 127.5) < 1
    assert re.findall(r'href="(?!data:)', text) == []
    assert text == mosaic({"a < b": sample[None].repeat(2, 1, 1), "c": sample[None]}, "A & B")


@pytest.mark.parametrize("rows", [{}, {"a": torch.zeros(2, 3)}, {"a": torch.zeros(0, 2, 2)}])
def test_nothing_to_draw(rows: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DataError, match="at least one row"):
        mosaic(rows, "none")
