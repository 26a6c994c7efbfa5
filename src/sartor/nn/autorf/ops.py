"""Operations of AutoRF's cells and the sets that a search chooses from.

Poolings keep the size of a map. ``dil`` and ``sep`` are dilated and separable convolutions whose
sigmoid gates the map; with ``_spatial`` they gate pixels by the maximum and mean of their channels.
``factorised`` is a k x 1 after a 1 x k convolution. ``se``, ``se_max`` and ``cbam`` are attentions
made by hand.

Source: Dong, Niu, Wei, Pan, Li, Huang, AutoRF: Auto Learning Receptive Fields with Spatial Pooling,
    MultiMedia Modeling 2023, with the candidate sets of its released code. Deviations: ``hybrid``,
    which the release orders at random, has the poolings first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError, nearest
from sartor.nn.autorf.gates import (
    CBAM,
    ChannelGate,
    ConvGate,
    SpatialGate,
    dilated_layers,
    factorised_conv,
    separable_layers,
)
from sartor.nn.meta_pooling.candidates import WindowPool

__all__ = ["OPERATIONS", "SPACES", "NoiseIdentity", "StripPool", "is_pooling", "make_operation"]

_FORMS = ("", "_spatial")
_POOLS = ("none", "noise", "max3", "avg3", "max5", "avg5", "max7", "avg7", "strip")
_CONVS = (
    *(f"{kind}{size}{form}" for kind in ("dil", "sep") for size in (3, 5) for form in _FORMS),
    *("factorised3", "factorised5"),
)
_GATES = ("skip", "se", "se_max", "cbam")
OPERATIONS = (*_POOLS, *_CONVS, *_GATES)
#: candidate sets; ``fullpool`` is the published default
SPACES: Mapping[str, tuple[str, ...]] = {
    "small": _POOLS[:4],
    "middle": _POOLS[:6],
    "large": _POOLS[:8],
    "fullpool": _POOLS,
    "fullconv": ("none", "noise", *_CONVS),
    "hybrid": (*_POOLS, *_CONVS),
    "autola": ("none", "skip", "sep3", "dil3", "sep3_spatial", "dil3_spatial", *_GATES[1:]),
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


def is_pooling(name: str) -> bool:
    """Whether an operation pools, which a search follows by one more norm."""
    return name[:3] in ("max", "avg") or name == "strip"


def make_operation(name: str, channels: int, *, affine: bool = True) -> nn.Module:
    """Make an operation on C channels, a multiple of 4.

    Args:
        name: of :data:`OPERATIONS`.
        channels: C.
        affine: whether norms have gains and shifts: yes in a net, no in a search. After means they
            never have them, in strips and ``cbam`` always, as published.

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
    if name in _WHOLE:
        return _WHOLE[name](channels)
    kind, size, form = re.split(r"(\d)", name)
    return _SIZED[kind + form](channels, int(size), affine)


def _pool(kind: str, channels: int, size: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        WindowPool(kind, size),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels // 4, bias=False),
        nn.BatchNorm2d(channels, affine=affine and kind == "max"),
    )


def _dilated_spatial(_channels: int, size: int, affine: bool) -> nn.Module:
    return SpatialGate(
        nn.Sequential(
            nn.Conv2d(2, 1, size, padding=2 * (size // 2), dilation=2, bias=False),
            nn.Conv2d(1, 1, 1, bias=False),
            nn.BatchNorm2d(1, affine=affine),
        )
    )


#: operations without a size, made from C
_WHOLE: Mapping[str, Callable[[int], nn.Module]] = {
    "none": lambda _channels: Zero(),
    "noise": lambda _channels: NoiseIdentity(),
    "skip": lambda _channels: nn.Identity(),
    "strip": StripPool,
    "se": ChannelGate,
    "se_max": partial(ChannelGate, maximum=True),
    "cbam": CBAM,
}
#: those with one, made from C, size and whether norms are affine
_SIZED: Mapping[str, Callable[[int, int, bool], nn.Module]] = {
    "max": partial(_pool, "max"),
    "avg": partial(_pool, "avg"),
    "sep": lambda c, size, affine: ConvGate(separable_layers(c, c, size, affine=affine)),
    "sep_spatial": lambda _, size, affine: SpatialGate(separable_layers(2, 1, size, affine=affine)),
    "dil": lambda c, size, affine: ConvGate(dilated_layers(c, size, affine=affine)),
    "dil_spatial": _dilated_spatial,
    "factorised": lambda c, size, affine: factorised_conv(c, size, affine=affine),
}
