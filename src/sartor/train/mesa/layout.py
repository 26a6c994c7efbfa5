"""Where the elements of a tensor lie in its storage, so that views of the same elements are stored
once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["compact_strides", "group_shape", "in_memory_order", "memory_order", "region"]


def memory_order(x: Tensor) -> tuple[int, ...] | None:
    """The dimensions of more than one distinct element, the slowest in memory first.

    Returns:
        Dimensions sorted by stride, without expanded ones and those of size 1; ``None`` if elements
        overlap, as sliding windows do.

    Example:
        >>> memory_order(torch.zeros(2, 3, 4).transpose(1, 2))
        (0, 2, 1)
    """
    sizes, strides = x.shape, x.stride()
    moving = [dim for dim in range(x.ndim) if sizes[dim] > 1 and strides[dim] > 0]
    order = sorted(moving, key=lambda dim: -strides[dim])
    for outer, inner in itertools.pairwise(order):
        if strides[outer] < sizes[inner] * strides[inner]:
            return None
    return tuple(order)


def in_memory_order(x: Tensor, order: Sequence[int]) -> Tensor:
    """A view of the distinct elements of ``x`` with its dimensions in the order of memory."""
    sizes, strides = [x.shape[d] for d in order], [x.stride(d) for d in order]
    return x.as_strided(sizes, strides, x.storage_offset())


def region(x: Tensor, order: Sequence[int]) -> tuple[int, ...]:
    """A key that two views of one storage share if and only if they have the same elements.

    Example:
        >>> x = torch.zeros(2, 3, 4)
        >>> y = x.view(6, 4).t()
        >>> region(x, memory_order(x)) == region(y, memory_order(y))
        True
    """
    runs: list[list[int]] = []  # [size, stride], joined where one runs into the next
    for dim in order:
        size, stride = x.shape[dim], x.stride(dim)
        if runs and runs[-1][1] == size * stride:
            runs[-1] = [runs[-1][0] * size, stride]
        else:
            runs.append([size, stride])
    return (x.storage_offset(), *(number for run in runs for number in run))


def compact_strides(x: Tensor, order: Sequence[int]) -> tuple[int, ...]:
    """Strides that read ``x`` from its distinct elements laid side by side in memory order."""
    strides, step = [0] * x.ndim, 1
    for dim in reversed(order):
        strides[dim], step = step, step * x.shape[dim]
    return tuple(strides)


def group_shape(x: Tensor, dim: int | None, groups: int) -> tuple[int, int, int]:
    """Split a tensor into equal runs of one dimension.

    Args:
        x: any shape.
        dim: the dimension whose runs are the groups; ``None`` for one group.
        groups: divides its size.

    Returns:
        (outer, groups, inner) whose product is the number of elements.

    Example:
        >>> group_shape(torch.zeros(2, 6, 4, 8), 1, 3), group_shape(torch.zeros(2, 5, 12), 2, 3)
        ((2, 3, 64), (10, 3, 4))
    """
    if dim is None:
        return 1, 1, x.numel()
    outer = torch.Size(x.shape[:dim]).numel()
    return outer, groups, x.numel() // (outer * groups)
