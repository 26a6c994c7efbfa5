"""SN-Netv2 in ``fit``: for classes, and for dense families as a backbone under one head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from sartor.core import Family
from sartor.core.schema import Shape
from sartor.moves.route import RouteMove, StitchingEngine
from sartor.nn.sources import seeded
from sartor.stitch import (
    DenseNetwork,
    StitchableNetwork,
    TwoWayNetwork,
    TwoWaySettings,
    flops_sampler,
    is_dense,
    stitch_dense,
    stitch_two_way,
)

__all__ = ["SnNetV2Engine", "SnNetV2Move"]

#: of a family of any size, the smallest and the largest model
SETTINGS = TwoWaySettings(anchors=(0, -1))


@dataclass(frozen=True, kw_only=True)
class SnNetV2Move(RouteMove):
    """Extract configuration ``index`` of a trained SN-Netv2."""

    id: ClassVar[str] = "sn-netv2"
    required: ClassVar[Shape] = {"kinds": list, "rank": int, "on_mismatch": str, "dense": bool}
    optional: ClassVar[Shape] = {"anchors": (list, type(None))}

    settings: TwoWaySettings = field(default_factory=lambda: SETTINGS)

    def config(self) -> dict[str, Any]:
        """See :class:`~sartor.moves.route.RouteMove`."""
        return asdict(self.settings)

    @classmethod
    def assemble(
        cls, family: Family, example: Tensor, config: Mapping[str, Any]
    ) -> TwoWayNetwork | DenseNetwork:
        """See :class:`~sartor.moves.route.RouteMove`."""
        typed = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        return _stitched(family, example, TwoWaySettings(**typed))


@dataclass(frozen=True, kw_only=True)
class SnNetV2Engine(StitchingEngine):
    """Joins the smallest and the largest model in both directions; every training step draws a
    group of like FLOPs, then one of its configurations.

    A family of :class:`~sartor.nn.DenseViT` becomes one backbone under the largest model's head.
    """

    id: ClassVar[str] = "sn-netv2"
    prefix: ClassVar[str] = "sn2"

    def stitch(self, family: Family, example: Tensor) -> TwoWayNetwork | DenseNetwork:
        """See :class:`~sartor.moves.route.StitchingEngine`."""
        with seeded(self.seed):  # of the corrections' first factors
            return _stitched(family, example, SETTINGS)

    def prepare_step(self, net: StitchableNetwork | DenseNetwork, step: int) -> None:
        """Draw a group, then a member."""
        net.set_config(flops_sampler(net, seed=self.seed)(step))

    def take(self, index: int) -> SnNetV2Move:
        """See :class:`~sartor.core.Engine`."""
        return SnNetV2Move(index=index)


def _stitched(
    family: Family, example: Tensor, settings: TwoWaySettings
) -> TwoWayNetwork | DenseNetwork:
    make = stitch_dense if is_dense(family) else stitch_two_way
    return make(family, example, settings)
