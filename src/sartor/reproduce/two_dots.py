"""Two dots, near or far: a task that a network can only do if its receptive field is large enough.

Source: the laptop-scale check of the cards of Meta-Pooling (arXiv 2301.10038) and AutoRF.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SIDE", "two_dots"]

SIDE = 16


def two_dots(count: int, limit: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw images with one dot in each of two channels, and whether the dots are near.

    Args:
        count: images, N.
        limit: largest larger-axis distance of near dots, 2 to 13; near ones are ``limit - 1`` or
            ``limit`` apart, far ones ``limit + 1`` or ``limit + 2``.
        generator: of everything.

    Returns:
        Images (N, 2, 16, 16) of zeros and ones, and labels (N,): 1 for near.

    Example:
        >>> images, labels = two_dots(4, 6, generator=torch.Generator().manual_seed(0))
        >>> images.shape, images.sum().item(), labels.shape
        (torch.Size([4, 2, 16, 16]), 8.0, torch.Size([4]))
    """

    def below(high: int | Tensor) -> Tensor:
        """Whole numbers in [0, high)."""
        return (torch.rand(count, generator=generator) * high).long()

    near = below(2)
    far_apart = limit + 1 - 2 * near + below(2)  # (N,)
    sign = 2 * below(2) - 1
    offsets = torch.stack((sign * far_apart, below(2 * far_apart + 1) - far_apart), dim=1)
    swapped = below(2).bool()
    offsets[swapped] = offsets[swapped].flip(1)  # (N, 2)
    room = SIDE - offsets.abs()
    first = torch.stack([below(room[:, axis]) for axis in (0, 1)], dim=1) + (-offsets).clamp(min=0)
    second = first + offsets
    images, index = torch.zeros(count, 2, SIDE, SIDE), torch.arange(count)
    images[index, 0, first[:, 0], first[:, 1]] = 1
    images[index, 1, second[:, 0], second[:, 1]] = 1
    return images, near
