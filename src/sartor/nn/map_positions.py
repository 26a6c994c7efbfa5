"""Learned positions added to a map, with or without a class token in front.

Source: the absolute embeddings of LIT-Ti; Pan et al., AAAI 2022, arXiv 2105.14217.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MapPositions", "resize_positions"]


def resize_positions(positions: Tensor, size: tuple[int, int], *, prefix: int = 0) -> Tensor:
    """Stretch positions (1, prefix + N, C) of a square map to a map of (H, W), bicubically.

    Args:
        positions: the first ``prefix`` belong to tokens that are no part of the map.
        size: (H, W).
        prefix: how many.

    Returns:
        (1, prefix + H * W, C).

    Example:
        >>> resize_positions(torch.zeros(1, 17, 8), (6, 4), prefix=1).shape
        torch.Size([1, 25, 8])
    """
    tokens, grid = positions[:, :prefix], positions[:, prefix:]
    side = round(grid.shape[1] ** 0.5)
    square = grid.float().transpose(1, 2).unflatten(-1, (side, side))  # (1, C, side, side)
    stretched = F.interpolate(square, size=size, mode="bicubic", align_corners=False)
    return torch.cat((tokens, stretched.flatten(2).transpose(1, 2).to(positions.dtype)), dim=1)


class MapPositions(nn.Module):
    """Add a learned vector at each position of a map (B, H, W, C).

    Args:
        dim: channels C.
        size: (H, W).
        class_token: whether the map becomes tokens (B, 1 + H * W, C) with a learned one in front.
    """

    def __init__(self, dim: int, size: tuple[int, int], *, class_token: bool = False) -> None:
        super().__init__()
        self.size = size
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.weight = nn.Parameter(torch.empty(1, size[0] * size[1] + class_token, dim))
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) -> maps of that shape, or tokens (B, 1 + H * W, C)."""
        if self.cls_token is None:
            return x + self.weight.unflatten(1, self.size)
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)), dim=1)
        return tokens + self.weight
