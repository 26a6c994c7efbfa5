from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.core import DataError
from sartor.data import load_task
from sartor.data.arrays import as_images, as_labels


def _arrays(count: int = 40, shape: tuple[int, ...] = (6, 6, 3)) -> dict[str, Any]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    return {"x_train": images, "y_train": np.arange(count) % 4}


def _save(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(5, 9), st.integers(5, 9)),
    last=st.booleans(),
    dtype=st.sampled_from(["uint8", "float16", "float32", "float64"]),
)
def test_both_orders_of_axes_are_read_alike(
    shape: tuple[int, int, int], last: bool, dtype: str
) -> None:
    array = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(dtype)
    read = as_images(array.transpose(0, 2, 3, 1) if last else array, "x")
    assert read.dtype == (torch.uint8 if dtype == "uint8" else torch.float32)
    assert np.array_equal(read.numpy(), array)


def test_three_axes_are_one_channel() -> None:
    assert as_images(np.zeros((3, 5, 4)), "x").shape == (3, 1, 5, 4)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.integers(0, 100), min_size=1, max_size=9),
    dtype=st.sampled_from(["uint8", "int8", "int32", "int64", "uint64"]),
)
def test_labels_of_any_integer_type(values: list[int], dtype: str) -> None:
    assert as_labels(np.array(values, dtype=dtype), "y", len(values)).tolist() == values


def test_task_of_training_arrays_alone(tmp_path: Path) -> None:
    task = load_task(_save(tmp_path, **_arrays()), batch_size=5)
    assert task.num_classes == 4 and task.input_shape == (3, 6, 6) and task.name == "set"
    parts = [
        part.dataset.images  # type: ignore[attr-defined]
        for part in (task.train, task.selection, task.validation)
    ]
    assert [len(part) for part in parts] == [29, 3, 8]
    rows = {tuple(row) for part in parts for row in part.flatten(1).tolist()}
    assert len(rows) == 40
    inputs, _ = next(iter(task.train))
    assert inputs.shape == (5, 3, 6, 6) and inputs.dtype == torch.float32


def test_statistics_are_of_the_images_left_to_train_on(tmp_path: Path) -> None:
    task = load_task(_save(tmp_path, **_arrays()), batch_size=29)
    pixels, _ = next(iter(task.train))
    torch.testing.assert_close(pixels.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    deviation = pixels.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(deviation, torch.ones(3), atol=1e-4, rtol=0)


def test_given_validation_images_stay_whole_and_seed_decides(tmp_path: Path) -> None:
    arrays = _arrays()
    path = _save(tmp_path, **arrays, x_val=arrays["x_train"][:7], y_val=arrays["y_train"][:7])
    state = torch.get_rng_state()
    first, again, other = (load_task(path, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert sum(len(labels) for _, labels in first.validation) == 7

    def chosen(task: Any) -> torch.Tensor:
        return torch.cat([inputs for inputs, _ in task.selection])

    assert torch.equal(chosen(first), chosen(again))
    assert not torch.equal(chosen(first), chosen(other))


def test_images_are_resized_to_the_family(tmp_path: Path) -> None:
    path = _save(tmp_path, **_arrays(shape=(6, 6)))
    task = load_task(path, image_size=(3, 12, 12), batch_size=4)
    assert task.input_shape == (3, 12, 12)
    assert next(iter(task.validation))[0].shape == (4, 3, 12, 12)


_LABELS = np.arange(40) % 4
_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"y_train": None}, "lacks the array 'y_train'"),
    "half a validation set": ({"x_val": np.zeros((2, 6, 6, 3))}, "lacks the array 'y_val'"),
    "other lengths": ({"y_train": _LABELS[:39]}, r"shape \(39,\) and there are 40 images"),
    "two axes of labels": ({"y_train": _LABELS[:, None]}, r"give \(40,\)"),
    "labels of type float": ({"y_train": _LABELS.astype(float)}, "give integer labels"),
    "negative label": ({"y_train": _LABELS - 1}, r"hold -1, outside 0\.\.3"),
    "gap in the labels": ({"y_train": _LABELS * 2}, r"hold 6, outside 0\.\.3"),
    "huge label": (
        {"y_train": (_LABELS - 1).astype("uint64")},
        "y_train holds 18446744073709551615",
    ),
    "one class": ({"y_train": _LABELS * 0}, "a single class"),
    "validation label": (
        {"x_val": np.zeros((2, 6, 6, 3), "uint8"), "y_val": np.array([0, 4])},
        r"validation labels hold 4, outside 0\.\.3",
    ),
    "validation shape": (
        {"x_val": np.zeros((2, 7, 6, 3), "uint8"), "y_val": np.array([0, 1])},
        r"\(3, 6, 6\) and \(3, 7, 6\)",
    ),
    "not a number": ({"x_train": np.full((40, 6, 6), np.nan)}, "not finite, first in image 0"),
    "too large for single": ({"x_train": np.full((40, 6, 6), 1e300)}, "not finite"),
    "flat images": ({"x_train": np.zeros((40, 36))}, r"has the shape \(40, 36\)"),
    "no pixels": ({"x_train": np.zeros((40, 0, 6))}, r"has the shape \(40, 0, 6\)"),
    "integer images": ({"x_train": np.zeros((40, 6, 6), "int64")}, "of type int64; give uint8"),
    "no two of a class": (
        {"x_train": np.zeros((4, 6, 6)), "y_train": np.arange(4)},
        "no two of one class",
    ),
    "objects": ({"x_train": np.array([{}] * 40, dtype=object)}, "cannot be read as plain arrays"),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_arrays(case: str, tmp_path: Path) -> None:
    changes, message = _BAD[case]
    arrays = {**_arrays(), **changes}
    path = _save(tmp_path, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(DataError, match=message):
        load_task(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"is not an \.npz file"):
        load_task(path)
    _save(tmp_path, **_arrays())
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as plain arrays"):
        load_task(path)
