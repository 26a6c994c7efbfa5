"""Operations of AutoRF's cells: pooling that keeps the size, strips, and skips with noise.

Source: Dong, Niu, Wei, Pan, Li, Huang, AutoRF: Auto Learning Receptive Fields with Spatial Pooling,
    MultiMedia Modeling 2023. Deviations: of its candidate sets those of pooling are here; the sets
    of convolutions and of hand-made attention are not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError, nearest
from sartor.nn.pooling_candidates import WindowPool

__all__ = ["OPERATIONS", "SPACES", "NoiseIdentity", "StripPool", "make_operation"]

OPERATIONS = ("none", "noise", "max3", "avg3", "max5", "avg5", "max7", "avg7", "strip")
#: candidate sets; ``fullpool`` is the published default
SPACES: Mapping[str, tuple[str, ...]] = {
    "small": OPERATIONS[:4],
    "middle": OPERATIONS[:6],
    "large": OPERATIONS[:8],
    "fullpool": OPERATIONS,
}


class NoiseIdentity(nn.Module):
    """The input, in training with Gaussian noise of its own deviation, so that a search does not
    prefer skips only because they are easy to train.

    Args:
        factor: of the deviation, at least 0.
    """

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        if not factor >= 0:
            raise FamilyError(f"The noise has a factor of at least 0, got {factor}.")
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        if not self.training:
            return x
        return x + torch.randn_like(x) * (self.factor * x.detach().std())


class Zero(nn.Module):
    """No edge: zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return torch.zeros_like(x)


class StripPool(nn.Module):
    """Means over whole columns and whole rows, each convolved along the axis that is left.

    Args:
        channels: C, even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.squeeze = nn.Sequential(
            nn.Conv2d(channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()
        )
        self.across = nn.Sequential(
            nn.Conv2d(half, half, (1, 3), padding=(0, 1), bias=False), nn.BatchNorm2d(half)
        )
        self.down = nn.Sequential(
            nn.Conv2d(half, half, (3, 1), padding=(1, 0), bias=False), nn.BatchNorm2d(half)
        )
        self.expand = nn.Sequential(
            nn.Conv2d(2 * half, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        hidden = self.squeeze(x)
        across = self.across(hidden.mean(2, keepdim=True)).expand_as(hidden)  # of (B, C/2, 1, W)
        down = self.down(hidden.mean(3, keepdim=True)).expand_as(hidden)  # of (B, C/2, H, 1)
        outputs: Tensor = self.expand(torch.cat((across, down), dim=1))
        return outputs


def make_operation(name: str, channels: int, *, affine: bool = True) -> nn.Module:
    """Make an operation on C channels, a multiple of 4.

    Args:
        name: of :data:`OPERATIONS`.
        channels: C.
        affine: whether norms after maxima have gains and shifts: yes in a net, no in a search.
            After means they never have them and in strips always, as published.

    Raises:
        FamilyError: the name is unknown, or C is not a multiple of 4.
    """
    if name not in OPERATIONS:
        raise FamilyError(f"There is no operation {name!r}; {nearest(name, OPERATIONS)}")
    if channels % 4:
        raise FamilyError(
            f"The operations of a cell need a multiple of 4 channels, got {channels}; the cell "
            "itself a multiple of 16."
        )
    simple = {"none": Zero, "noise": NoiseIdentity}
    if name in simple:
        return simple[name]()
    if name == "strip":
        return StripPool(channels)
    return nn.Sequential(
        WindowPool(name[:3], int(name[3:])),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels // 4, bias=False),
        nn.BatchNorm2d(channels, affine=affine and name.startswith("max")),
    )
