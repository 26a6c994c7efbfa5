"""Seeded, stratified splits: which inputs are held out."""

from __future__ import annotations

import torch
from torch import Tensor

from sartor.core.errors import DataError

__all__ = ["check_labels", "hold_out", "selection_size", "validation_size"]

SELECTION_SHARE = 0.1
SELECTION_LIMIT = 2048
VALIDATION_SHARE = 0.2


def hold_out(labels: Tensor, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Choose about ``count`` inputs to hold out, every class in proportion to its size.

    Each class keeps at least one input, so fewer than ``count`` may be held out. The global random
    state is neither read nor changed.

    Args:
        labels: class of each input, (N,), integers from 0.
        count: wanted number of held-out inputs, at least 1.
        seed: any integer; the same seed gives the same split.

    Returns:
        Indices kept and indices held out, each sorted; together they are ``0..N-1`` once each.

    Raises:
        DataError: no class has two inputs, so that nothing can be held out.

    Example:
        >>> kept, held = hold_out(torch.tensor([0, 0, 0, 1, 1, 1]), 2, seed=0)
        >>> len(kept), len(held)
        (4, 2)
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))  # (N,)
    order = shuffled[torch.sort(labels[shuffled], stable=True).indices]  # (N,), class by class
    sizes = torch.bincount(labels)  # (K,)
    size = sizes[labels[order]]  # (N,)
    start = (sizes.cumsum(0) - sizes)[labels[order]]  # (N,)
    rank = torch.arange(len(labels)) - start  # (N,), place within the class
    share = (rank + 0.5) / size  # (N,), the lowest are held out
    share[rank == size - 1] = 2.0  # never the last one of a class
    first = torch.sort(share, stable=True).indices[:count]
    held = order[first[share[first] < 1]]
    if not len(held):
        raise DataError(
            f"The {len(labels)} training inputs hold no two of one class, so that none can be held "
            "out to choose on; give at least two of each class."
        )
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held] = False
    return kept.nonzero().flatten(), held.sort().values


def selection_size(count: int) -> int:
    """How many of ``count`` training inputs the planner's choices are made on: 10 %, at least 1 and
    at most 2048.
    """
    return max(1, min(SELECTION_LIMIT, round(count * SELECTION_SHARE)))


def validation_size(count: int) -> int:
    """How many of ``count`` training inputs are reported on where no others are given: 20 %, at
    least 1.
    """
    return max(1, round(count * VALIDATION_SHARE))


def check_labels(labels: Tensor, num_classes: int, *, split: str, every: bool = False) -> None:
    """Make sure that labels (N,) lie in ``0..num_classes-1``.

    Args:
        labels: integers.
        num_classes: number of classes, K.
        split: name for messages.
        every: whether each class must occur.

    Raises:
        DataError: there are no labels, one is out of range, or a class that must occur does not.
    """
    if not len(labels):
        raise DataError(f"The {split} data are empty; give at least one input.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"The {split} labels hold {low if low < 0 else high}, outside 0..{num_classes - 1}; "
            f"number the {num_classes} classes of the training data from 0 and leave unlabelled "
            "inputs out."
        )
    absent = sorted(set(range(num_classes)) - set(labels.tolist()))
    if every and absent:
        raise DataError(
            f"Class {absent[0]} of 0..{num_classes - 1} has no input to train on; give it some, or "
            "number the classes without gaps."
        )
