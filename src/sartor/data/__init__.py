"""Tasks from data: digits, image folders, arrays and Hub data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sartor.core.errors import DataError
from sartor.core.task import Task
from sartor.data.digits import digits_task

__all__ = ["digits_task", "load_task"]

_ALLOWED = (
    "'digits', nor a folder with train and val, nor an .npz file, nor hub:owner/name; give one of "
    "these, or a Task from Python"
)


def load_task(
    data: str | Path | Task,
    *,
    batch_size: int = 64,
    image_size: tuple[int, ...] | None = None,
    seed: int = 0,
    workers: int = 0,
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
    return _maker(str(data))(
        batch_size=batch_size, image_size=image_size, seed=seed, workers=workers
    )


def _maker(text: str) -> Callable[..., Task]:
    if text == "digits":
        return digits_task
    raise DataError(f"The data {text!r} are neither {_ALLOWED}.")


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
