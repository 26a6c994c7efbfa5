"""Coloured shapes on textured ground with a label for every pixel, generated from a seed.

A small stand-in for segmentation data: colours and sizes are drawn apart from kinds, and the ground
has as much contrast as the shapes, so that only form tells the classes apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError
from sartor.core.task import Task
from sartor.data.memory import ImageTensors, statistics, train_loader, whole_loader

__all__ = ["SHAPES", "draw_shapes", "mean_iou", "shapes_task"]

#: classes of a pixel; the first is the ground
SHAPES = ("ground", "disc", "square", "triangle", "ring")
#: shapes of a picture; later ones cover earlier ones
PER_PICTURE = 3


def draw_shapes(count: int, size: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pictures and the class of each of their pixels.

    Args:
        count: number of pictures N, at least 1.
        size: height and width in pixels, at least 8.
        generator: on the CPU.

    Returns:
        Pictures (N, 3, size, size) in [0, 1] and labels (N, size, size), int64, of
        :data:`SHAPES`.

    Raises:
        DataError: a number is too small.

    Example:
        >>> pictures, labels = draw_shapes(4, 32, generator=torch.Generator().manual_seed(0))
        >>> pictures.shape, labels.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 32, 32]))
    """
    if count < 1 or size < 8:
        raise DataError(
            f"Shapes need at least 1 picture of at least 8 pixels a side, got {count} and {size}."
        )
    pictures = _ground(count, size, generator)  # (N, 3, S, S)
    labels = torch.zeros(count, size, size, dtype=torch.int64)
    for _ in range(PER_PICTURE):
        kind = torch.randint(1, len(SHAPES), (count, 1, 1), generator=generator)
        inside = _inside(kind, size, generator)  # (N, S, S)
        colour = torch.rand(count, 3, 1, 1, generator=generator)
        pictures = torch.where(inside[:, None], colour, pictures)
        labels = torch.where(inside, kind, labels)
    noise = torch.randn(pictures.shape, generator=generator)
    return (pictures + 0.05 * noise).clamp(0, 1), labels


def shapes_task(
    *,
    train: int = 800,
    selection: int = 160,
    validation: int = 320,
    size: int = 32,
    batch_size: int = 32,
    seed: int = 0,
    workers: int = 0,
) -> Task:
    """Make the shapes task: label every pixel of pictures (3, size, size); no network.

    The quality is the mean intersection over union of the classes. The three splits are drawn one
    after another from ``seed``.

    Args:
        train: number of pictures to train on.
        selection: to choose on.
        validation: to report on.
        size: height and width in pixels, at least 8.
        batch_size: inputs a batch.
        seed: of all pictures.
        workers: loading processes.

    Raises:
        DataError: a number is too small.

    Example:
        >>> task = shapes_task(train=8, selection=4, validation=4)
        >>> task.input_shape, task.metric
        ((3, 32, 32), 'mIoU')
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        draw_shapes(count, size, generator=generator) for count in (train, selection, validation)
    ]
    mean, std = statistics(drawn[0][0])
    data = [ImageTensors(images, labels, mean=mean, std=std) for images, labels in drawn]
    loading = {"batch_size": batch_size, "workers": workers}
    return Task(
        name="shapes",
        train=train_loader(data[0], count=train, **loading),
        selection=whole_loader(data[1], **loading),
        validation=whole_loader(data[2], **loading),
        example=torch.zeros(1, 3, size, size),
        evaluate=mean_iou,
        metric="mIoU",
        classes=SHAPES,
        preprocess={"mean": mean.tolist(), "std": std.tolist()},
    )


@torch.no_grad()
def mean_iou(model: Callable[[Tensor], Tensor], batches: Iterable[Any]) -> float:
    """Mean over classes of the intersection over union, counted over all pixels of all batches; the
    model is called as it is, in its own mode.

    Args:
        model: maps (B, ...) to logits (B, K, H, W).
        batches: pairs of inputs (B, ...) and labels (B, H, W).

    Returns:
        In [0, 1]; classes that neither occur nor are predicted do not count.

    Raises:
        DataError: there is not one batch.
    """
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = first.device if first is not None else torch.device("cpu")
    confusion: Tensor | None = None  # (K, K): pixels of a class by what they are taken for
    for inputs, labels in batches:
        logits = model(inputs.to(device))  # (B, K, H, W)
        classes = logits.shape[1]
        pairs = labels.cpu() * classes + logits.argmax(dim=1).cpu()  # (B, H, W)
        counts = torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes)
        confusion = counts if confusion is None else confusion + counts
    if confusion is None:
        raise DataError("The data to evaluate on is empty; give at least one batch.")
    both = confusion.diagonal().double()
    either = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return float((both / either)[either > 0].mean())


def _ground(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Waves of random direction, length and colour: (N, 3, S, S) in [0, 1]."""
    axis = torch.linspace(0, 2 * math.pi, size)
    ground = torch.rand(count, 3, 1, 1, generator=generator).expand(-1, -1, size, size)
    for _ in range(3):
        fast = 12 * torch.rand(count, 2, 1, 1, generator=generator) - 6  # (N, 2, 1, 1)
        phase = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
        wave = torch.sin(fast[:, 0] * axis[:, None] + fast[:, 1] * axis + phase)  # (N, S, S)
        colour = 0.4 * torch.rand(count, 3, 1, 1, generator=generator) - 0.2
        ground = ground + colour * wave[:, None]
    return ground.clamp(0, 1)


def _inside(kind: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Which pixels a shape of that kind (N, 1, 1) covers, at a random place: (N, S, S)."""
    count = len(kind)
    radius = size * (0.12 + 0.16 * torch.rand(count, 1, 1, generator=generator))
    centre = size * (0.15 + 0.7 * torch.rand(count, 2, 1, 1, generator=generator))
    pixel = torch.arange(size) + 0.5
    down = (pixel[:, None] - centre[:, 0]) / radius  # (N, S, 1)
    right = (pixel - centre[:, 1]) / radius  # (N, 1, S)
    far = (down.square() + right.square()).sqrt()  # (N, S, S)
    covers = (
        far <= 1,  # disc
        torch.maximum(down.abs(), right.abs()) <= 0.85,  # square
        (down <= 0.7) & (down >= 2 * right.abs() - 1),  # triangle, its tip up
        (far <= 1) & (far >= 0.55),  # ring
    )
    return torch.stack(covers, dim=1).gather(1, (kind - 1)[:, None].expand(-1, 1, size, size))[:, 0]
