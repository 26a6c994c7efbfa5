"""SN-Netv2: two anchors that hand over in both directions, for classes and as a backbone for dense
tasks.

Source: Pan, Liu, He, Cai, Zhuang, Stitched ViTs are Flexible Vision Backbones, ECCV 2024, arXiv
    2307.00154. Deviations: see ``two_way``, ``low_rank`` and ``flops_groups``; least squares sees
    clean images in eval mode and float64 (the official script leaves autocast on).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.core.family import Family
from sartor.stitch.anchor import Anchor
from sartor.stitch.discovery import find_anchor
from sartor.stitch.flops_groups import GroupedStitchSampler, group_by_flops
from sartor.stitch.low_rank import LowRankStitch
from sartor.stitch.network import StitchableNetwork, affine_layer
from sartor.stitch.taps import collect, plan_taps
from sartor.stitch.two_way import KINDS, enumerate_two_way, last_block_stitch

__all__ = ["TwoWayNetwork", "TwoWaySettings", "flops_sampler", "stitch_two_way"]

#: groups that the range of costs is cut into where no gap is given
PARTS = 8


@dataclass(frozen=True, kw_only=True)
class TwoWaySettings:
    """Settings of SN-Netv2's search space.

    Attributes:
        kinds: of routes: ``sl`` (small to large), ``ls``, ``lsl`` and ``sls``.
        rank: of the stitching layers' trained correction; 0 trains them whole. The paper takes 64
            for ImageNet and 4 or 16 for dense tasks.
        anchors: which two models of the family to stitch, the small one first, such as ``(0,
            -1)``; ``None`` for a family of two.
        on_mismatch: for depths that are no multiples: ``error`` or ``adjust``.
        dense: also make the layer that turns features of the small anchor's last block into the
            large one's; dense heads need it.
    """

    kinds: tuple[str, ...] = KINDS
    rank: int = 4
    anchors: tuple[int, int] | None = None
    on_mismatch: str = "error"
    dense: bool = False

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise FamilyError(
                f"The rank must be at least 0, got {self.rank}; 0 trains layers whole."
            )

    def pair(self, family: Family) -> Family:
        """The two models to stitch.

        Raises:
            FamilyError: the family has other than two models and none are named, or those that are
                named are not two of it.
        """
        count = len(family)
        if self.anchors is None and count != 2:
            raise FamilyError(
                f"Two-way stitching joins two models and the family has {count}; name two of them "
                "with anchors, for example anchors=(0, -1)."
            )
        wanted = self.anchors or (0, 1)
        if any(not -count <= i < count for i in wanted):
            raise FamilyError(
                f"The family has {count} models and anchors={wanted} are not of them."
            )
        small, large = (i % count for i in wanted)
        if small >= large:
            raise FamilyError(
                f"anchors={wanted} must name a smaller model and then a larger one of the family."
            )
        return Family((family.members[small], family.members[large]))


class TwoWayNetwork(StitchableNetwork):
    """A stitchable network of two anchors that also gives features to dense heads."""

    @property
    def depths(self) -> tuple[int, int]:
        """Blocks of the small and of the large anchor."""
        small, large = (len(anchor.stages[0]) for anchor in self.anchors)  # type: ignore[arg-type, index, union-attr]
        return small, large

    def forward_features(self, inputs: Tensor, out_indices: Sequence[int]) -> list[Tensor]:
        """Features along the chosen route, all of the large anchor's width, before any final norm.

        Args:
            inputs: (B, C, H, W).
            out_indices: blocks of the large anchor, increasing; whatever the route runs in their
                place is read there.

        Returns:
            One map (B, C_large, h, w) for each index.

        Raises:
            FamilyError: the indices are illegal, the anchors are no plain ViTs, or the network was
                stitched without ``dense``.
        """
        steps, taps = self.tapped(self._chosen, out_indices)
        return collect(steps, taps, inputs)

    def tapped(
        self, index: int, out_indices: Sequence[int]
    ) -> tuple[tuple[nn.Module, ...], list[tuple[int, nn.Module | None]]]:
        """The modules of a route up to its last tap, and the taps.

        Args:
            index: of the configuration.
            out_indices: blocks of the large anchor, increasing.

        Returns:
            Modules in order, and for each index the position of its output among them and the
            layer to send it through.
        """
        route, config = self._route_of(index), self.configs[index]
        before = 1 + len(self.anchors[config.anchors[0]].enter[0])  # type: ignore[arg-type, index, union-attr]
        taps = [
            (before + at, None if number is None else self._layer(number))
            for at, number in plan_taps(config, self.depths, out_indices)
        ]
        return route[: taps[-1][0] + 1], taps

    def _layer(self, number: int) -> nn.Module:
        key = f"a0-1_s0_n{number}"
        if key not in self.stitch_layers:
            raise FamilyError(
                "This network has no layer for the features of the small model's block "
                f"{number}; stitch with TwoWaySettings(dense=True) and with the kind 'sl'."
            )
        return self.stitch_layers[key]


def stitch_two_way(
    family: Family, example: Tensor, settings: TwoWaySettings | None = None
) -> TwoWayNetwork:
    """Stitch copies of two models in both directions; call ``init_stitches`` before training.

    Args:
        family: models of one task, small to large, each with its blocks in one sequence.
        example: inputs (B, ...) that they take.
        settings: the search space.

    Raises:
        FamilyError: names the models, or the reason, that prevents stitching.
    """
    settings = settings or TwoWaySettings()
    members = settings.pair(family)
    anchors = [find_anchor(copy.deepcopy(member), example) for member in members]
    small, large = (_depth(anchor) for anchor in anchors)
    configs = enumerate_two_way(small, large, settings.kinds, on_mismatch=settings.on_mismatch)
    spare = (last_block_stitch(small, large),) if settings.dense else ()

    def make_layer(in_features: int, out_features: int, layout: str, features: Tensor) -> nn.Module:
        if not settings.rank:
            return affine_layer(in_features, out_features, layout, features)
        if layout == "first":
            raise FamilyError(
                "Low-rank stitching layers take tokens, and these models have channels-first "
                "features; set rank=0."
            )
        where: dict[str, Any] = {"device": features.device, "dtype": features.dtype}
        return LowRankStitch(in_features, out_features, settings.rank, **where)

    net = TwoWayNetwork(anchors, example, configs, make_layer, spare)
    net.eval()
    return net


def flops_sampler(
    net: StitchableNetwork,
    *,
    gap: float | None = None,
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> GroupedStitchSampler:
    """Sample a network's configurations evenly over cost.

    Costs are those of the inputs that the network was stitched with: for inputs of another size,
    stitch again.

    Args:
        net: the network.
        gap: between the first members of two groups, in FLOPs (multiply and add apart, so the
            paper's 1 GFLOP is 2e9); ``None`` for an eighth of the range.
        weights: share of each group; default: equal ones.
        seed: of the draws.

    Raises:
        FamilyError: the gap is not above 0, or the weights do not fit.
    """
    flops = {index: float(net.flops(index)) for index in range(net.num_configs)}
    if gap is None:
        gap = (max(flops.values()) - min(flops.values())) / PARTS
    return GroupedStitchSampler(group_by_flops(flops, gap), weights, seed=seed)


def _depth(anchor: Anchor) -> int:
    if len(anchor.depths) != 1:
        raise FamilyError(
            f"The model {anchor.name!r} has {len(anchor.depths)} stages; two-way stitching takes "
            "models with one sequence of blocks, such as plain ViTs; stitch this family with "
            "sn-net."
        )
    return anchor.depths[0]
