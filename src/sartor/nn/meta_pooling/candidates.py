"""Pooling that keeps a map's size: windows of maxima and means, and axis-wise attention.

Source: Dong, Niu, Tian, Li, Wang, Wei, Pan, Li, Progressive Meta-Pooling Learning for Lightweight
    Image Classification Model, ICASSP 2023, arXiv 2301.10038; the separable one is coordinate
    attention (arXiv 2103.02907).
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError

__all__ = ["SeparablePool", "WindowPool", "make_candidate", "window"]


class WindowPool(nn.Module):
    """Maximum or mean of each k x k window, stride 1; means count the zeros around the map.

    Args:
        kind: ``max`` or ``avg``.
        size: k, odd.
    """

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        self.kind, self.size = kind, size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W).

        Raises:
            DataError: the window is larger than 2 H - 1 or 2 W - 1.
        """
        side = min(x.shape[-2:])
        if self.size > 2 * side - 1:
            raise DataError(
                f"A window of {self.size} reads maps of at least {(self.size + 1) // 2} pixels a "
                f"side, got {side}; leave {self.kind}{self.size} out or take larger images."
            )
        pool = F.max_pool2d if self.kind == "max" else F.avg_pool2d
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return pool(x, self.size, stride=1, padding=self.size // 2)
        # on a CPU torch has vector instructions for maps with their channels last alone
        last = x.contiguous(memory_format=torch.channels_last)
        return pool(last, self.size, stride=1, padding=self.size // 2).contiguous()

    def extra_repr(self) -> str:
        """Kind and size."""
        return f"{self.kind}, {self.size}"


class SeparablePool(nn.Module):
    """Coordinate attention: gates from the means over each row and each column.

    Args:
        channels: C.
        reduction: of the hidden channels, which are at least 8.
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.BatchNorm2d(hidden)
        self.rows = nn.Conv2d(hidden, channels, 1)
        self.columns = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        height = x.shape[-2]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        joined = torch.cat((rows, columns), dim=2)  # (B, C, H + W, 1)
        hidden = F.hardswish(self.norm(self.squeeze(joined)))
        by_row = self.rows(hidden[:, :, :height]).sigmoid()  # (B, C, H, 1)
        by_column = self.columns(hidden[:, :, height:]).sigmoid().transpose(2, 3)  # (B, C, 1, W)
        return x * by_row * by_column


def make_candidate(name: str, channels: int) -> nn.Module:
    """Make ``skip``, ``sep``, or ``max`` or ``avg`` with an odd window such as ``max5``.

    Raises:
        FamilyError: there is no such candidate.

    Example:
        >>> make_candidate("max5", 8)
        WindowPool(max, 5)
    """
    if name == "skip":
        return nn.Identity()
    if name == "sep":
        return SeparablePool(channels)
    found = re.fullmatch(r"(max|avg)([1-9][0-9]?)", name)
    if found is None or int(found[2]) % 2 == 0:
        raise FamilyError(
            f"There is no pooling {name!r}; take skip, sep, or max or avg with an odd window, such "
            "as max5."
        )
    return WindowPool(found[1], int(found[2]))


def window(name: str) -> int:
    """Side of the window that a candidate reads; 1 for ``skip``, and for ``sep``, which gates each
    pixel by means over the whole map.
    """
    digits = re.sub(r"\D", "", name)
    return int(digits) if digits else 1
