"""Tasks from encoded pictures: check, hold out, prepare, load."""

from __future__ import annotations

import torch
from torch import Tensor

from sartor.core.errors import DataError
from sartor.core.task import Task
from sartor.data.memory import train_loader, whole_loader
from sartor.data.pictures import (
    Checked,
    Normalization,
    PictureData,
    Pictures,
    Preparation,
    check_pictures,
)
from sartor.data.split import check_labels, hold_out, selection_size, validation_size

__all__ = ["picture_task"]

OWN_SIZE_LIMIT = 256
USUAL_SIZE = (224, 224)
#: variants of each training picture; more than epochs that anyone trains
VARIANTS = 2**20


def picture_task(
    name: str,
    train: Pictures,
    validation: Pictures | None,
    *,
    classes: tuple[str, ...],
    batch_size: int,
    image_size: tuple[int, ...] | None,
    seed: int,
    workers: int,
    normalization: Normalization | None,
) -> Task:
    """Make a task of encoded pictures.

    Every picture is decoded once before training. Training pictures are cropped and flipped at
    random, all others are resized and cropped to their middle.

    Args:
        name: of the task.
        train: pictures to train on; a stratified 10 %, at most 2048, is held out to select on.
        validation: pictures to report on; ``None`` holds 20 % of ``train`` out.
        classes: names, K of them.
        batch_size: inputs a batch.
        image_size: (C, H, W) that the models take; ``None`` for the pictures' own size if all
            have the same and it is at most 256, else (3, 224, 224).
        seed: of the splits and the augmentation.
        workers: loading processes.
        normalization: means and deviations of the 3 channels; ``None`` for ImageNet's.

    Raises:
        DataError: the pictures or labels cannot be used.
    """
    if len(classes) < 2:
        raise DataError(
            f"{name!r} has {len(classes)} class ({', '.join(classes)}); give at least two classes."
        )
    checked = check_pictures(train, split="train")
    kept = checked.intact
    if validation is None:
        checks = [checked]
        kept, reported = _held(kept, train.labels, validation_size(len(kept)), seed)
    else:
        checks = [checked, check_pictures(validation, split="validation")]
        reported = checks[1].intact
        check_labels(validation.labels[reported], len(classes), split="validation")
    check_labels(train.labels[kept], len(classes), split="train", every=True)
    kept, selected = _held(kept, train.labels, selection_size(len(kept)), seed)
    preparation = _preparation(image_size or _own_size(checks), normalization)
    loading = {"batch_size": batch_size, "workers": workers}
    return Task(
        name=name,
        train=train_loader(
            PictureData(train, kept, preparation, augment=seed),
            count=len(kept),
            draws=VARIANTS,
            **loading,
        ),
        selection=whole_loader(PictureData(train, selected, preparation), **loading),
        validation=whole_loader(PictureData(validation or train, reported, preparation), **loading),
        example=torch.zeros(1, *preparation.size),
        num_classes=len(classes),
        classes=classes,
        preprocess=_preprocess(preparation),
        notes=tuple(note for check in checks for note in check.notes),
    )


def _preprocess(preparation: Preparation) -> dict[str, list[float]]:
    """Mean and deviation of each input channel; those of grey inputs, the mean of three
    normalised channels, follow for grey pictures.
    """
    mean, std = torch.tensor(preparation.mean), torch.tensor(preparation.std)  # (3,)
    if preparation.size[0] == 1:
        scale = 1 / (1 / std).mean(0, keepdim=True)
        mean, std = (mean / std).mean(0, keepdim=True) * scale, scale
    return {"mean": mean.tolist(), "std": std.tolist()}


def _held(chosen: Tensor, labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    kept, held = hold_out(labels[chosen], count, seed=seed)
    return chosen[kept], chosen[held]


def _own_size(checks: list[Checked]) -> tuple[int, int, int]:
    sizes = {check.size for check in checks}
    size = sizes.pop()
    if sizes or size is None or max(size) > OWN_SIZE_LIMIT:
        size = USUAL_SIZE
    return (3, *size)


def _preparation(size: tuple[int, ...], normalization: Normalization | None) -> Preparation:
    if normalization is None:
        return Preparation(size=size)
    return Preparation(size=size, mean=tuple(normalization[0]), std=tuple(normalization[1]))
