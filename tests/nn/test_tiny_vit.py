from __future__ import annotations

import pytest
import torch

from sartor.core import FamilyError
from sartor.nn import tiny_vit

pytest.importorskip("timm")


def test_shapes_and_parameters() -> None:
    model = tiny_vit(
        embed_dim=8, depth=3, num_heads=2, img_size=12, patch_size=4, in_chans=3, num_classes=5
    )
    assert model(torch.zeros(2, 3, 12, 12)).shape == (2, 5)
    assert len(model.get_submodule("blocks")) == 3  # type: ignore[arg-type]
    block = 12 * 8 * 8 + 13 * 8  # weights of attention and MLP; biases and norms
    outside = 48 * 8 + 8 + 8 + 10 * 8 + 2 * 8 + 8 * 5 + 5
    assert sum(p.numel() for p in model.parameters()) == 3 * block + outside


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dim": 10}, "embed_dim of a tiny_vit must be a multiple of its num_heads.*=8"),
        ({"img_size": 7}, "img_size of a tiny_vit must be a multiple of its patch_size.*=6"),
        ({"embed_dim": 2}, "take embed_dim=4"),
        ({"depth": 0}, "must be at least 1, got 0"),
    ],
)
def test_bad_numbers(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        tiny_vit(**arguments)
