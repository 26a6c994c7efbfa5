"""Image folders: ``train`` and ``val``, one subfolder a class."""

from __future__ import annotations

from pathlib import Path

import torch

from sartor.core.errors import DataError
from sartor.core.packages import require
from sartor.core.task import Task
from sartor.data.picture_task import picture_task
from sartor.data.pictures import Normalization

__all__ = ["FolderPictures", "folder_task"]


class FolderPictures:
    """The pictures below ``root/CLASS/``, in the order of torchvision's ``ImageFolder``; folders
    whose names start with a dot are no classes.

    Args:
        root: folder of one split.

    Raises:
        DataError: there are no class folders, or one holds no picture.
    """

    def __init__(self, root: Path) -> None:
        self.classes = tuple(
            sorted(
                entry.name
                for entry in root.iterdir()
                if entry.is_dir() and not entry.name.startswith(".")
            )
        )
        if not self.classes:
            raise DataError(f"{root} is empty; give it one subfolder of images a class.")
        folder = require("torchvision.datasets.folder")
        indices = {name: index for index, name in enumerate(self.classes)}
        samples = folder.make_dataset(
            str(root), indices, extensions=folder.IMG_EXTENSIONS, allow_empty=True
        )
        self.root = root
        self.paths = [Path(path) for path, _ in samples]
        self.labels = torch.tensor([label for _, label in samples], dtype=torch.int64)  # (N,)
        empty = sorted(set(range(len(self.classes))) - set(self.labels.tolist()))
        if empty:
            raise DataError(
                f"{root / self.classes[empty[0]]} holds no image; add images "
                f"({', '.join(folder.IMG_EXTENSIONS)}) or remove the folder."
            )

    def opened(self, index: int) -> Path:
        """Path of picture ``index``."""
        return self.paths[index]

    def name(self, index: int) -> str:
        """Path below the root."""
        return self.paths[index].relative_to(self.root).as_posix()


def folder_task(
    root: str | Path,
    *,
    batch_size: int = 64,
    image_size: tuple[int, ...] | None = None,
    seed: int = 0,
    workers: int = 0,
    normalization: Normalization | None = None,
) -> Task:
    """Make a task of a folder with ``train`` and ``val`` (or ``validation``), one subfolder a
    class.

    See :func:`sartor.data.picture_task.picture_task` for splits, sizes and augmentation. Corrupt
    images are skipped and named in ``notes`` if they are at most 1 % of their split.

    Args:
        root: the folder.
        batch_size: inputs a batch.
        image_size: (C, H, W) that the models take; ``None`` for the pictures' own.
        seed: of splits and augmentation.
        workers: loading processes.
        normalization: means and deviations of the 3 channels; ``None`` for ImageNet's.

    Raises:
        DataError: the folder, one of its parts or a class is missing or empty, there is only one
            class, the classes of the two parts differ, or too many images are corrupt.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"The folder {root} does not exist; give a folder with train and val, or for a Hub "
            "data set hub:owner/name."
        )
    train = FolderPictures(_part(root, "train"))
    validation = FolderPictures(_part(root, "val", "validation"))
    differing = sorted(set(train.classes) ^ set(validation.classes))
    if differing:
        has, lacks = ("train", "val") if differing[0] in train.classes else ("val", "train")
        raise DataError(
            f"The class {differing[0]!r} is in {has} and not in {lacks} of {root}; give both parts "
            "the same class folders."
        )
    return picture_task(
        root.resolve().name,
        train,
        validation,
        classes=train.classes,
        batch_size=batch_size,
        image_size=image_size,
        seed=seed,
        workers=workers,
        normalization=normalization,
    )


def _part(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(
        f"{root} has no folder {' or '.join(names)}; give a folder with train and val, each with "
        "one subfolder of images a class."
    )
