"""CAME's steps of many parameters: sorted by kind, cut into pieces, and taken one of three ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sartor.train.came.update import CAMESettings

__all__ = ["Batch", "chunks", "take_each", "take_lists"]

#: entries that are worked on together: what stays in a core's cache, a little of a GPU's memory
_ON_CPU, _ELSEWHERE = 2**16, 2**24


@dataclass
class Batch:
    """Parameters that one rule updates.

    Attributes:
        tensors: of each its weights, its gradient and its state, in the order of the rule.
        lrs: length of the step of each.
    """

    tensors: list[tuple[Tensor, ...]] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)

    def add(self, tensors: tuple[Tensor, ...], lr: float) -> None:
        """Add a parameter."""
        self.tensors.append(tensors)
        self.lrs.append(lr)

    def pieces(self) -> Iterator[Batch]:
        """Parts of one device and one precision, small enough to be worked on together."""
        kinds: dict[tuple[torch.device, torch.dtype], Batch] = {}
        for tensors, lr in zip(self.tensors, self.lrs, strict=True):
            kind = (tensors[0].device, tensors[0].dtype)
            kinds.setdefault(kind, Batch()).add(tensors, lr)
        for (device, _), batch in kinds.items():
            limit = _ON_CPU if device.type == "cpu" else _ELSEWHERE
            for part in chunks([tensors[0].numel() for tensors in batch.tensors], limit):
                yield Batch(batch.tensors[part], batch.lrs[part])


def chunks(sizes: list[int], limit: int) -> Iterator[slice]:
    """Cut a list where the sum of its sizes would exceed ``limit``; no part is empty.

    Example:
        >>> list(chunks([3, 3, 9, 1], limit=6))
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            yield slice(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def take_lists(
    rule: Callable[..., None], batch: Batch, *, decay: float, settings: CAMESettings
) -> None:
    """Apply a rule that takes lists, to one piece after the other."""
    for piece in batch.pieces():
        columns = (list(column) for column in zip(*piece.tensors, strict=True))
        rule(*columns, lrs=piece.lrs, decay=decay, settings=settings)


def take_each(
    rule: Callable[..., None], batch: Batch, *, decay: float, settings: CAMESettings
) -> None:
    """Apply a rule that takes the tensors of one parameter, to one after the other."""
    for tensors, lr in zip(batch.tensors, batch.lrs, strict=True):
        rule(*tensors, lr=lr, decay=decay, settings=settings)
