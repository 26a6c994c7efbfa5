"""ESTA in ``fit``: few values are trained, and training says which configurations to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sartor.core import Family, Task
from sartor.core.schema import Shape
from sartor.moves.route import RouteMove
from sartor.moves.sn_net import SnNetEngine
from sartor.stitch import (
    AdaptedNetwork,
    EstaSettings,
    ImportanceSampler,
    StitchSettings,
    adapt_stitchable,
    stitch,
)

__all__ = ["EstaEngine", "EstaMove"]

#: intervals of FLOPs, and configurations of each that ``fit`` looks at besides the anchors
INTERVALS, TOP_K = 4, 3


@dataclass(frozen=True, kw_only=True)
class EstaMove(RouteMove):
    """Extract configuration ``index`` of an adapted network, updates and biases folded in."""

    id: ClassVar[str] = "esta"
    required: ClassVar[Shape] = {
        "kernel_size": int,
        "stride": int,
        "nearest": bool,
        "stages": (list, tuple, type(None)),
        "rank": int,
        "alpha": (int, float, type(None)),
        "target_modules": (list, tuple),
        "stitch_layers": bool,
        "stitch_bias": bool,
        "train_head": bool,
        "momentum": (int, float),
        "warmup_visits": int,
    }

    settings: StitchSettings = field(default_factory=StitchSettings)
    adaptation: EstaSettings = field(default_factory=EstaSettings)

    def config(self) -> dict[str, Any]:
        """See :class:`~sartor.moves.route.RouteMove`."""
        targets = list(self.adaptation.target_modules)
        return {**asdict(self.settings), **asdict(self.adaptation), "target_modules": targets}

    @classmethod
    def assemble(cls, family: Family, example: Tensor, config: Mapping[str, Any]) -> AdaptedNetwork:
        """See :class:`~sartor.moves.route.RouteMove`."""
        shape = {key: config[key] for key in ("kernel_size", "stride", "nearest")}
        stages = tuple(config["stages"]) if config["stages"] else None
        rest = {k: v for k, v in config.items() if k not in (*shape, "stages")}
        rest["target_modules"] = tuple(rest["target_modules"])
        net = stitch(family, example, StitchSettings(**shape, stages=stages))
        return adapt_stitchable(net, EstaSettings(**rest))


@dataclass(frozen=True, kw_only=True)
class EstaEngine(SnNetEngine):
    """SN-Net's network, adapted; draws by importance and looks only at what that found."""

    id: ClassVar[str] = "esta"
    prefix: ClassVar[str] = "esta"
    lr: ClassVar[float] = 1e-2  # of few trained values, as the method's card has it

    def build(self, family: Family, task: Task) -> AdaptedNetwork:
        """Stitch, initialise by least squares on the task's inputs, freeze, add what is trained."""
        net = super().build(family, task)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return adapt_stitchable(net)

    def prepare_step(self, net: AdaptedNetwork, step: int) -> None:
        """Draw by importance."""
        flops = [net.flops(index) for index in range(net.num_configs)]
        net.set_config(ImportanceSampler(net.importance, flops, seed=self.seed).draw(step))

    def after_backward(self, net: AdaptedNetwork, step: int) -> None:
        """Score the configuration that ran."""
        net.score_step()

    def shortlist(self, net: AdaptedNetwork) -> Sequence[int] | None:
        """The anchors and the most important configurations of each interval of FLOPs; ``None`` if
        training ended before each had a score.
        """
        return net.select(INTERVALS, TOP_K) if net.importance.complete else None

    def take(self, index: int) -> EstaMove:
        """See :class:`~sartor.core.Engine`."""
        return EstaMove(index=index, settings=self.settings)
