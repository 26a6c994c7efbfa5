"""SN-Net in ``fit``: take one configuration out of a stitched family."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from sartor.core import Family, Move, MoveContext, MoveReport, MoveResult, RecipeError, Step
from sartor.core.schema import check_keys
from sartor.nn.sources import seeded
from sartor.stitch import StitchableNetwork, StitchSettings, stitch

__all__ = ["StitchMove"]


@dataclass(frozen=True, kw_only=True)
class StitchMove(Move):
    """Extract configuration ``index`` of a trained stitched net."""

    id: ClassVar[str] = "sn-net"
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset()

    index: int
    settings: StitchSettings = field(default_factory=StitchSettings)

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Extract the route; batch norms, if any, get the statistics of this route alone."""
        if not isinstance(model, StitchableNetwork):
            raise RecipeError(f"sn-net takes a stitched net, got {type(model).__name__}.")
        route = model.extract(self.index).eval()
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in route.modules()):
            with seeded(0):  # of the order of the data
                update_bn(context.task.train, route)
            route.eval()
        plan = {"index": self.index, "route": model.configs[self.index].name}
        config = {**asdict(self.settings), "input_shape": list(context.task.input_shape)}
        before = {"params": float(sum(p.numel() for p in model.parameters()))}
        after = {"params": float(sum(p.numel() for p in route.parameters()))}
        report = MoveReport(before=before, after=after)
        return MoveResult(
            model=route, step=Step(move=self.id, config=config, plan=plan), report=report
        )

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Stitch the family again and extract the same route."""
        kinds = {"kernel_size": int, "stride": int, "nearest": bool, "input_shape": list}
        check_keys(step.config, "The recipe's sn-net", kinds, {"stages": (list, tuple, type(None))})
        check_keys(step.plan, "The recipe's sn-net", {"index": int, "route": str}, {})
        config = dict(step.config)
        example = torch.zeros(1, *config.pop("input_shape"))
        stages = config.pop("stages", None)
        settings = StitchSettings(**config, stages=tuple(stages) if stages else None)
        if not isinstance(base, Family):
            raise RecipeError("The recipe stitches after another move; sn-net must come first.")
        net = stitch(base, example, settings)
        index, name = step.plan["index"], step.plan["route"]
        if not 0 <= index < net.num_configs or net.configs[index].name != name:
            raise RecipeError(
                f"The recipe takes configuration {index!r} of {net.num_configs} as {name!r}, which "
                "it is not; fit again."
            )
        return net.extract(index)
