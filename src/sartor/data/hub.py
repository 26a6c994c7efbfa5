"""Image data sets of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sartor.core.errors import DataError
from sartor.core.packages import require
from sartor.core.task import Task
from sartor.data.picture_task import picture_task
from sartor.data.pictures import Normalization

__all__ = ["HubPictures", "hub_task"]

_VALIDATION = ("validation", "valid", "val", "test")


class HubPictures:
    """One split of a Hub data set, its pictures still encoded.

    Args:
        rows: the split.
        image: name of the image column.
        label: name of the label column.
    """

    def __init__(self, rows: Any, *, image: str, label: str) -> None:
        self.labels = torch.tensor(  # (N,)
            [-1 if value is None else value for value in rows[label][:]], dtype=torch.int64
        )
        encoded = require("datasets").Image(decode=False)
        self.rows = rows.select_columns([image]).cast_column(image, encoded)
        self.image = image

    def opened(self, index: int) -> Path | bytes:
        """Content of picture ``index``, or its path where the data set only holds that."""
        value = self.rows[index][self.image]
        return value["bytes"] if value["bytes"] is not None else Path(value["path"])

    def name(self, index: int) -> str:
        """Row number."""
        return f"row {index}"


def hub_task(
    name: str,
    *,
    batch_size: int = 64,
    image_size: tuple[int, ...] | None = None,
    seed: int = 0,
    workers: int = 0,
    normalization: Normalization | None = None,
) -> Task:
    """Make a task of a Hub data set with one image column and one column of class labels.

    Its split ``train`` is trained on; ``validation`` (or ``valid``, ``val``, ``test``) is reported
    on, or 20 % of ``train`` if there is none. No code of the data set is run. See
    :func:`sartor.data.picture_task.picture_task` for the rest.

    Args:
        name: ``owner/name`` or ``name``.
        batch_size: inputs a batch.
        image_size: (C, H, W) that the models take; ``None`` for the pictures' own.
        seed: of splits and augmentation.
        workers: loading processes.
        normalization: means and deviations of the 3 channels; ``None`` for ImageNet's.

    Raises:
        DataError: the data set does not exist, cannot be reached, or has other columns.
    """
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise DataError(f"hub:{name} does not name a Hub data set; give hub:owner/name.")
    splits = _download(name)
    if "train" not in splits:
        raise DataError(
            f"The data set {name!r} has no split train but {', '.join(splits)}; save it as an "
            "image folder with train and val."
        )
    features = splits["train"].features
    image = _column(name, features, "Image", ("image", "img"))
    label = _column(name, features, "ClassLabel", ("label", "labels"))
    held_out = next((split for split in _VALIDATION if split in splits), None)
    if held_out and splits[held_out].features != features:
        raise DataError(
            f"The splits train and {held_out} of the data set {name!r} have different columns; "
            "save it as an image folder with train and val."
        )
    parts = {
        split: HubPictures(splits[split], image=image, label=label)
        for split in ("train", held_out)
        if split
    }
    return picture_task(
        name,
        parts["train"],
        parts[held_out] if held_out else None,
        classes=tuple(features[label].names),
        batch_size=batch_size,
        image_size=image_size,
        seed=seed,
        workers=workers,
        normalization=normalization,
    )


def _download(name: str) -> Mapping[str, Any]:
    """All splits, from the cache or the Hub."""
    datasets = require("datasets")
    try:
        return datasets.load_dataset(name)  # type: ignore[no-any-return]
    except Exception as error:  # the Hub's clients raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"The Hub data set {name!r} cannot be loaded ({reason.rstrip('.')}); check its name, "
            "the network and your login, or save it as an image folder with train and val."
        ) from error


def _column(name: str, features: Mapping[str, Any], kind: str, usual: tuple[str, ...]) -> str:
    """The column of a kind: the only one, or the one with a usual name."""
    found = [key for key, feature in features.items() if type(feature).__name__ == kind]
    if len(found) != 1:
        found = [key for key in found if key in usual] or found
    if len(found) != 1:
        raise DataError(
            f"The data set {name!r} has {len(found)} columns of the kind {kind} and one is needed "
            f"(columns: {', '.join(features)}); save it as an image folder with train and val."
        )
    return found[0]
