"""Tasks from data: digits, image folders, arrays and Hub data sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sartor.core.errors import DataError
from sartor.core.task import Task
from sartor.data.arrays import array_task
from sartor.data.auc import roc_auc
from sartor.data.click_log import ClickLog, click_task, draw_click_log
from sartor.data.digits import digits_task
from sartor.data.folder import folder_task
from sartor.data.hub import hub_task
from sartor.data.moving import bump_sprite, digit_sprites, moving_frames
from sartor.data.pictures import Normalization
from sartor.data.shapes import shapes_task

__all__ = [
    "ClickLog",
    "array_task",
    "bump_sprite",
    "click_task",
    "digit_sprites",
    "digits_task",
    "draw_click_log",
    "folder_task",
    "hub_task",
    "load_task",
    "moving_frames",
    "roc_auc",
    "shapes_task",
]


def load_task(
    data: str | Path | Task,
    *,
    batch_size: int = 64,
    image_size: tuple[int, ...] | None = None,
    seed: int = 0,
    workers: int = 0,
    normalization: Normalization | None = None,
) -> Task:
    """Make an image-classification task from what the user named.

    Args:
        data: ``digits``; a folder with ``train`` and ``val``, one subfolder a class; an ``.npz``
            file with ``x_train`` and ``y_train``; ``hub:owner/name``, a data set of the Hugging
            Face Hub; or a ready task, which is returned as it is.
        batch_size: inputs a batch, at least 1.
        image_size: (C, H, W) that the models take; ``None`` for the data's own.
        seed: of splits, noise and augmentation.
        workers: processes that load; 0 loads in this one.
        normalization: means and deviations of the 3 channels of pictures, of pixels in 0..1;
            ``None`` for ImageNet's. Digits and arrays are normalised with their own.

    Returns:
        The task; its selection data are held out of its training data.

    Raises:
        DataError: the data are unknown or cannot be used.

    Example:
        >>> load_task("digits", batch_size=32).num_classes
        10
    """
    if isinstance(data, Task):
        return data
    _validate(batch_size, image_size, workers)
    make = _maker(str(data), normalization)
    return make(batch_size=batch_size, image_size=image_size, seed=seed, workers=workers)


def _maker(text: str, normalization: Normalization | None) -> Callable[..., Task]:
    if text == "digits":
        return digits_task
    if text.startswith("hub:"):
        return partial(hub_task, text.removeprefix("hub:"), normalization=normalization)
    if text.endswith(".npz"):
        return partial(array_task, text)
    if Path(text).is_dir():
        return partial(folder_task, text, normalization=normalization)
    raise DataError(
        f"The data {text!r} are not known; give 'digits', a folder with train and val, an .npz "
        "file, hub:owner/name, or a Task from Python."
    )


def _validate(batch_size: int, image_size: tuple[int, ...] | None, workers: int) -> None:
    if batch_size < 1:
        raise DataError(f"The batch size must be at least 1, got {batch_size}.")
    if workers < 0:
        raise DataError(f"The number of workers must be at least 0, got {workers}.")
    if image_size is not None and (len(image_size) != 3 or min(image_size) < 1):
        raise DataError(
            f"The image size must be (channels, height, width), got {tuple(image_size)}; "
            "give for example (3, 224, 224)."
        )
