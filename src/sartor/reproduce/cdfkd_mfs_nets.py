"""CDFKD-MFS's evidence: its small networks, and a task that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sartor.core import DataError, Task
from sartor.nn.cdfkd_mfs.multi_head import (
    LastBlockHead,
    MultiHeadStudent,
    SepConv,
    multi_level_student,
)
from sartor.nn.sources import seeded

__all__ = ["SealedData", "conv_student", "conv_teacher", "sealed"]

CHANNELS = (8, 16, 32)


class SealedData:
    """Batches that nobody may read; counts who tried."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[Any]:
        """Refuse.

        Raises:
            DataError: always.
        """
        self.reads += 1
        raise DataError("These data are sealed: a data-free method must not read them.")


class _ConvTrunk(nn.Module):
    """Three convolutions of which each but the first halves the size."""

    def __init__(self) -> None:
        super().__init__()
        ins, strides = (1, *CHANNELS[:-1]), (1, 2, 2)
        self.stages = nn.ModuleList(map(_conv, ins, CHANNELS, strides))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stages[0](images)]
        for stage in self.stages[1:]:
            maps.append(stage(maps[-1]))
        return maps


def conv_teacher(seed: int) -> nn.Module:
    """Four convolutions with batch norm for images (1, 8, 8) of 10 classes, untrained."""
    with seeded(seed):
        return nn.Sequential(
            *(_conv(1, 16, 1), _conv(16, 32, 2), _conv(32, 32, 1), _conv(32, 32, 2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )


def conv_student(heads: int, seed: int, *, kind: str = "levels") -> MultiHeadStudent:
    """A student for images (1, 8, 8) of 10 classes, untrained.

    Args:
        heads: number of heads.
        seed: of its weights.
        kind: ``levels`` for heads that read every stage, ``last`` for heads that each have an
            encoder of their own on the last one.
    """
    with seeded(seed):
        if kind == "levels":
            return multi_level_student(_ConvTrunk(), CHANNELS, num_heads=heads, num_classes=10)
        width = CHANNELS[-1]
        made = [LastBlockHead(SepConv(width, width)) for _ in range(heads)]
        return MultiHeadStudent(_ConvTrunk(), made, num_features=width, num_classes=10)


def sealed(task: Task) -> tuple[Task, SealedData]:
    """The same task with data that cannot be read."""
    data = SealedData()
    return replace(task, train=data, selection=data, validation=data), data


def _conv(inner: int, outer: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    )
