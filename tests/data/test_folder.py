from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sartor.core import DataError, Task
from sartor.data import load_task

Image = pytest.importorskip("PIL.Image")


def _write(root: Path, counts: dict[str, int], size: tuple[int, int] = (12, 10)) -> Path:
    """``counts``: images by folder, such as ``train/cat``; each has a grey of its own."""
    grey = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            grey += 1
            colour = (grey % 256, grey // 256, 77)
            Image.new("RGB", size, colour).save(root / name / f"{index:03}.png")
    return root


_BOTH = {"train/cat": 20, "train/dog": 20, "val/cat": 3, "val/dog": 4}


def _colours(data: Any) -> set[tuple[int, ...]]:
    """Colours of the files that a part may read."""
    paths = [data.pictures.opened(int(index)) for index in data.chosen]
    return {Image.open(path).convert("RGB").getpixel((0, 0)) for path in paths}


def _epoch(task: Task, seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    inputs, labels = zip(*task.train, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def test_facts_and_splits(tmp_path: Path) -> None:
    task = load_task(_write(tmp_path / "pets", _BOTH), batch_size=8)
    assert (task.name, task.classes, task.num_classes) == ("pets", ("cat", "dog"), 2)
    assert task.input_shape == (3, 10, 12) and task.notes == ()
    train, selection, validation = (
        _colours(part.dataset)  # type: ignore[attr-defined]
        for part in (task.train, task.selection, task.validation)
    )
    assert (len(train), len(selection), len(validation)) == (36, 4, 7)
    assert not train & selection and not (train | selection) & validation
    assert torch.cat([labels for _, labels in task.validation]).tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_pixels_are_normalised_and_the_middle_is_taken(tmp_path: Path) -> None:
    root = _write(tmp_path, _BOTH)
    inputs, _ = next(iter(load_task(root).validation))
    grey = (41 / 255 - 0.485) / 0.229
    torch.testing.assert_close(inputs[0, 0], torch.full((10, 12), grey))
    own = load_task(root, normalization=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), image_size=(1, 6, 6))
    inputs, _ = next(iter(own.validation))
    torch.testing.assert_close(inputs[0], torch.full((1, 6, 6), (41 + 77) / 3 / 255))


@pytest.mark.parametrize("size", [(300, 8), (8, 300), (5, 5)])
def test_any_picture_is_brought_to_the_size(tmp_path: Path, size: tuple[int, int]) -> None:
    task = load_task(_write(tmp_path, _BOTH, size), image_size=(3, 96, 80), batch_size=4)
    for part in (task.train, task.validation):
        assert next(iter(part))[0].shape == (4, 3, 96, 80)


def test_pictures_of_many_or_large_sizes_get_the_usual_size(tmp_path: Path) -> None:
    root = _write(tmp_path / "a", _BOTH)
    _write(root, {"val/cat": 1}, size=(9, 9))
    assert load_task(root).input_shape == (3, 224, 224)
    assert load_task(_write(tmp_path / "b", _BOTH, (8, 300))).input_shape == (3, 224, 224)


def test_augmentation_is_of_training_alone_and_repeatable(tmp_path: Path) -> None:
    root = _write(tmp_path, _BOTH)
    for path in root.rglob("*.png"):  # left half dark, so that a flip shows
        picture = Image.open(path).convert("RGB")
        picture.paste((0, 0, 0), (0, 0, 6, 10))
        picture.save(path)
    one, two = load_task(root, batch_size=9), load_task(root, batch_size=9, workers=2)
    inputs, labels = _epoch(one, 1)
    others, same = _epoch(two, 1)
    assert torch.equal(inputs, others) and torch.equal(labels, same)
    assert not torch.equal(inputs, _epoch(one, 2)[0])
    lighter = inputs[..., 0].mean(dim=(1, 2)) > inputs[..., -1].mean(dim=(1, 2))  # flipped
    assert 5 < int(lighter.sum()) < 31
    first, again = (torch.cat([x for x, _ in one.validation]) for _ in range(2))
    assert torch.equal(first, again) and not (first[..., 0] > first[..., -1]).any()


def test_global_state_stays(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    task = load_task(_write(tmp_path, _BOTH))
    task.train.dataset[3]  # type: ignore[attr-defined]
    assert torch.equal(state, torch.get_rng_state())


def test_other_files_and_hidden_folders_are_no_data(tmp_path: Path) -> None:
    root = _write(tmp_path, {**_BOTH, "train/.cache": 1})
    (root / "train" / "cat" / "notes.txt").write_text("no picture")
    assert load_task(root).classes == ("cat", "dog")


def test_validation_may_be_written_out(tmp_path: Path) -> None:
    counts = {"train/a": 3, "train/b": 3, "validation/a": 1, "validation/b": 1}
    assert load_task(_write(tmp_path, counts)).num_classes == 2


def _bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels without their data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def _cut(picture: bytes) -> bytes:
    return picture[: len(picture) - 30]


_CORRUPT = {
    "empty": lambda picture: b"",
    "text": lambda picture: b"no picture at all",
    "cut": _cut,
    "bomb": lambda picture: _bomb(),
}


@pytest.mark.parametrize("kind", _CORRUPT)
def test_few_corrupt_images_are_named_and_skipped(tmp_path: Path, kind: str) -> None:
    root = _write(tmp_path, {"train/a": 60, "train/b": 60, "val/a": 2, "val/b": 2})
    path = root / "train" / "a" / "007.png"
    path.write_bytes(_CORRUPT[kind](path.read_bytes()))
    task = load_task(root, batch_size=107)
    assert task.notes == ("train: skipped 1 of 120 images as corrupt: a/007.png",)
    inputs, labels = _epoch(task, 0)
    assert len(inputs) == 107 and torch.bincount(labels).tolist() == [53, 54]


def test_many_corrupt_images_are_refused(tmp_path: Path) -> None:
    root = _write(tmp_path, _BOTH)
    (root / "val" / "dog" / "001.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"1 of the 7 images of validation are corrupt.*\(dog/001.png\)"
    ):
        load_task(root)


_BAD: dict[str, tuple[dict[str, int], str]] = {
    "no train": ({"val/a": 1, "val/b": 1}, "has no folder train"),
    "no val": ({"train/a": 1, "train/b": 1}, "has no folder val or validation"),
    "empty": ({"train": 0, "val": 0}, "train is empty"),
    "one class": ({"train/a": 2, "val/a": 1}, r"1 class \(a\); give at least two"),
    "empty class": ({"train/a": 2, "train/b": 0, "val/a": 1, "val/b": 1}, "b holds no image"),
    "class missing in val": (
        {"train/a": 2, "train/b": 2, "val/a": 1},
        "'b' is in train and not in val",
    ),
    "class missing in train": (
        {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "val/c": 1},
        "'c' is in val and not in train",
    ),
    "no two of a class": (
        {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1},
        "at least two of each class",
    ),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_folders(tmp_path: Path, case: str) -> None:
    counts, message = _BAD[case]
    with pytest.raises(DataError, match=message):
        load_task(_write(tmp_path, counts))


def test_bad_sizes_and_normalisation(tmp_path: Path) -> None:
    root = _write(tmp_path, _BOTH)
    with pytest.raises(DataError, match="take 2 channels"):
        load_task(root, image_size=(2, 8, 8))
    with pytest.raises(DataError, match="3 means and 3 positive deviations"):
        load_task(root, normalization=((0.5,), (0.5,)))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="are not known; give 'digits', a folder"):
        load_task(tmp_path / "nowhere")
