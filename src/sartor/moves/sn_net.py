"""SN-Net in ``fit``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from sartor.core import Family
from sartor.core.schema import Shape
from sartor.moves.route import RouteMove, StitchingEngine
from sartor.stitch import StitchableNetwork, StitchSettings, draw_config, stitch

__all__ = ["SnNetEngine", "SnNetMove"]


@dataclass(frozen=True, kw_only=True)
class SnNetMove(RouteMove):
    """Extract configuration ``index`` of a trained SN-Net."""

    id: ClassVar[str] = "sn-net"
    required: ClassVar[Shape] = {"kernel_size": int, "stride": int, "nearest": bool}
    optional: ClassVar[Shape] = {"stages": (list, tuple, type(None))}

    settings: StitchSettings = field(default_factory=StitchSettings)

    def config(self) -> dict[str, Any]:
        """See :class:`~sartor.moves.route.RouteMove`."""
        return asdict(self.settings)

    @classmethod
    def assemble(
        cls, family: Family, example: Tensor, config: Mapping[str, Any]
    ) -> StitchableNetwork:
        """See :class:`~sartor.moves.route.RouteMove`."""
        stages = config.get("stages")
        settings = {**config, "stages": tuple(stages) if stages else None}
        return stitch(family, example, StitchSettings(**settings))


@dataclass(frozen=True, kw_only=True)
class SnNetEngine(StitchingEngine):
    """One random configuration in each training step.

    Attributes:
        kernel_size: stitching window.
        stride: distance of windows.
        nearest: stitch neighbouring anchors only.
    """

    id: ClassVar[str] = "sn-net"
    prefix: ClassVar[str] = "sn"

    kernel_size: int = 2
    stride: int = 1
    nearest: bool = True

    @property
    def settings(self) -> StitchSettings:
        """Of the search space."""
        return StitchSettings(
            kernel_size=self.kernel_size, stride=self.stride, nearest=self.nearest
        )

    def stitch(self, family: Family, example: Tensor) -> StitchableNetwork:
        """See :class:`~sartor.moves.route.StitchingEngine`."""
        return stitch(family, example, self.settings)

    def prepare_step(self, net: StitchableNetwork, step: int) -> None:
        """Draw uniformly."""
        net.set_config(draw_config(self.seed, step, net.num_configs))

    def take(self, index: int) -> SnNetMove:
        """See :class:`~sartor.core.Engine`."""
        return SnNetMove(index=index, settings=self.settings)
