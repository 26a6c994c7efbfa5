"""SN-Net: one network out of a family, whose size is a number that can be set at run time.

Source: Pan, Cai, Zhuang, Stitchable Neural Networks, CVPR 2023, arXiv 2302.06586. Deviations: the
    end anchor's final norm is applied on
stitched routes (the released code skips it); layer numbers of unequal depths follow the paper (see
``plan``); least squares sees clean images in eval mode (see ``least_squares``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sartor.core.family import Family
from sartor.stitch.anchor import Anchor
from sartor.stitch.discovery import find_anchor
from sartor.stitch.network import StitchableNetwork
from sartor.stitch.plan import StitchConfig, enumerate_configs

__all__ = ["StitchSettings", "routes", "stitch"]


@dataclass(frozen=True, kw_only=True)
class StitchSettings:
    """Settings of SN-Net's search space.

    Attributes:
        kernel_size: window length of paired stitching, at least 1.
        stride: window distance, at least 1.
        nearest: stitch neighbouring anchors only.
        stages: stages in which to stitch; default: the only one; else all but the last, and for
            channels-first nets all but the first and the last, as the paper does for Swin and
            ResNet.
    """

    kernel_size: int = 2
    stride: int = 1
    nearest: bool = True
    stages: tuple[int, ...] | None = None


def stitch(
    family: Family, example: Tensor, settings: StitchSettings | None = None
) -> StitchableNetwork:
    """Stitch copies of a family's models; call ``init_stitches`` before training.

    Args:
        family: models of one task, small to large.
        example: inputs (B, ...) that they take.
        settings: the search space.

    Raises:
        FamilyError: names the model, or the reason, that prevents stitching.
    """
    anchors = [find_anchor(copy.deepcopy(member), example) for member in family]
    return StitchableNetwork(anchors, example, routes(anchors, settings)).eval()


def routes(anchors: Sequence[Anchor], settings: StitchSettings | None = None) -> list[StitchConfig]:
    """Every configuration of SN-Net: the anchors, then the stitches in the order of the paper.

    Raises:
        FamilyError: stages or settings are illegal.
    """
    settings = settings or StitchSettings()
    return enumerate_configs(
        [anchor.depths for anchor in anchors],
        kernel_size=settings.kernel_size,
        stride=settings.stride,
        nearest=settings.nearest,
        stages=settings.stages or _default_stages(anchors[0]),
    )


def _default_stages(anchor: Anchor) -> tuple[int, ...]:
    count = len(anchor.depths)
    if count == 1:
        return (0,)
    return tuple(range(1 if anchor.layout == "first" and count > 2 else 0, count - 1))
