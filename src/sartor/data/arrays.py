"""Images and labels from a NumPy ``.npz`` file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sartor.core.errors import DataError
from sartor.core.task import Task
from sartor.data.memory import ImageTensors, fit_images, statistics, train_loader, whole_loader
from sartor.data.split import check_labels, hold_out, selection_size, validation_size

__all__ = ["array_task", "as_images", "as_labels"]

_KEYS = ("x_train", "y_train", "x_val", "y_val")
Array = npt.NDArray[Any]


def array_task(
    path: str | Path,
    *,
    batch_size: int = 64,
    image_size: tuple[int, ...] | None = None,
    seed: int = 0,
    workers: int = 0,
) -> Task:
    """Make a task of an ``.npz`` file with ``x_train``, ``y_train`` and, optionally, ``x_val``,
    ``y_val``.

    Without the latter a stratified 20 % is held out to report on. A stratified 10 % of the
    training images, at most 2048, is held out to select on. Each channel is normalised with mean
    and deviation of the images that are left to train on; there is no augmentation.

    Args:
        path: of the file; pickled objects in it are refused.
        batch_size: inputs a batch.
        image_size: (C, H, W) that the models take; ``None`` for the images' own.
        seed: of the splits.
        workers: loading processes.

    Raises:
        DataError: the file cannot be read, or its arrays are not images and labels.
    """
    path = Path(path)
    found = _read(path)
    images = as_images(found["x_train"], "x_train")
    labels = as_labels(found["y_train"], "y_train", len(images))
    num_classes = len(set(labels.tolist()))
    if num_classes < 2:
        raise DataError(f"y_train of {path} holds a single class; give at least two.")
    check_labels(labels, num_classes, split="training", every=True)
    if "x_val" in found:
        rest = torch.arange(len(labels))
        reported = as_images(found["x_val"], "x_val")
        targets = as_labels(found["y_val"], "y_val", len(reported))
        check_labels(targets, num_classes, split="validation")
        if reported.shape[1:] != images.shape[1:]:
            raise DataError(
                f"x_train and x_val hold images of shapes {tuple(images.shape[1:])} and "
                f"{tuple(reported.shape[1:])} (channels, height, width); give both the same."
            )
    else:
        rest, held = hold_out(labels, validation_size(len(labels)), seed=seed)
        reported, targets = images[held], labels[held]
    kept, chosen = hold_out(labels[rest], selection_size(len(rest)), seed=seed)
    train, selected = rest[kept], rest[chosen]
    mean, std = statistics(images[train])

    def part(x: Tensor, y: Tensor) -> ImageTensors:
        return ImageTensors(x, y, mean=mean, std=std, size=image_size)

    loading = {"batch_size": batch_size, "workers": workers}
    return Task(
        name=path.stem,
        train=train_loader(part(images[train], labels[train]), count=len(train), **loading),
        selection=whole_loader(part(images[selected], labels[selected]), **loading),
        validation=whole_loader(part(reported, targets), **loading),
        example=fit_images(torch.zeros(1, *images.shape[1:]), image_size),
        num_classes=num_classes,
        classes=tuple(str(index) for index in range(num_classes)),
        preprocess={"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
        if images.dtype == torch.uint8
        else None,
    )


def as_images(array: Array, name: str) -> Tensor:
    """Check images and bring them to (N, C, H, W), uint8 or float32.

    Three axes are (N, H, W), one channel. Of four axes, the shorter of the second and the last is
    the channel axis, the second if they are equal: (N, 3, 32, 32) and (N, 32, 32, 3) are both read
    as three channels.

    Args:
        array: uint8 (read as 0..255) or float (taken as it is).
        name: for messages.

    Raises:
        DataError: another type or number of axes, no image, or values that are not finite.

    Example:
        >>> as_images(np.zeros((5, 32, 32, 3), dtype=np.uint8), "x").shape
        torch.Size([5, 3, 32, 32])
    """
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(
            f"{name} is of type {array.dtype}; give uint8 images of 0..255 or float images."
        )
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(
            f"{name} has the shape {array.shape}; give (N, H, W), (N, H, W, C) or (N, C, H, W)."
        )
    if array.ndim == 3:
        array = array[:, None]  # (N, 1, H, W)
    elif array.shape[3] < array.shape[1]:
        array = array.transpose(0, 3, 1, 2)  # (N, C, H, W)
    if array.dtype.kind == "f":
        array = _finite(array, name)
    return torch.from_numpy(np.ascontiguousarray(array))


def _finite(array: Array, name: str) -> Array:
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    finite = np.isfinite(array).all(axis=(1, 2, 3))  # (N,)
    if not finite.all():
        raise DataError(
            f"{name} holds values that are not finite, first in image {int((~finite).argmax())}; "
            "remove or repair it."
        )
    return array


def as_labels(array: Array, name: str, count: int) -> Tensor:
    """Check labels: integers (N,), one an image.

    Raises:
        DataError: another type, shape or length.
    """
    if array.dtype.kind not in "iu":
        raise DataError(f"{name} is of type {array.dtype}; give integer labels, numbered from 0.")
    if array.shape != (count,):
        raise DataError(
            f"{name} has the shape {array.shape} and there are {count} images; give ({count},)."
        )
    if array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
        raise DataError(f"{name} holds {array.max()}; number the classes from 0.")
    return torch.from_numpy(array.astype(np.int64))


def _read(path: Path) -> dict[str, Array]:
    """The arrays of the file by name."""
    if not path.is_file():
        raise DataError(f"The file {path} does not exist; give an .npz file.")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an .npz file; write it with numpy.savez.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in _KEYS if key in archive.files}
            names = ", ".join(archive.files) or "none"
    except Exception as error:  # zip and array headers fail in many ways
        raise DataError(
            f"{path} cannot be read as plain arrays ({type(error).__name__}: {error}); write "
            "numbers, not objects, with numpy.savez."
        ) from error
    needed = _KEYS if found.keys() & {"x_val", "y_val"} else _KEYS[:2]
    missing = [key for key in needed if key not in found]
    if missing:
        raise DataError(
            f"{path} lacks the array {missing[0]!r} (it has: {names}); write x_train and y_train, "
            "and x_val and y_val or neither."
        )
    return found
