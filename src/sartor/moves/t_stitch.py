"""T-Stitch in ``fit``: the family is samplers, the engine shares their trajectory out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from sartor.core import (
    Engine,
    Family,
    Move,
    MoveContext,
    MoveReport,
    MoveResult,
    RecipeError,
    Step,
    Task,
)
from sartor.core.schema import check_keys
from sartor.stitch.t_stitch.sampler import StitchedSampler, stitch_samplers

__all__ = ["TStitchEngine", "TStitchMove"]

#: distance of the fractions that ``fit`` looks at
GRID = 0.1


@dataclass(frozen=True, kw_only=True)
class TStitchMove(Move):
    """Extract configuration ``index`` of a stitched sampler: noise in, samples out."""

    id: ClassVar[str] = "t-stitch"
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset()

    index: int

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Copy the sampler out with the denoisers that have a share."""
        if not isinstance(model, StitchedSampler):
            raise RecipeError(f"t-stitch takes a stitched sampler, got {type(model).__name__}.")
        sampler = model.extract(self.index).eval()
        plan = {"index": self.index, "fractions": list(model.configs[self.index].fractions)}
        config = {"grid": GRID, "input_shape": list(context.task.input_shape)}
        before, after = (
            {"params": float(sum(p.numel() for p in m.parameters()))} for m in (model, sampler)
        )
        report = MoveReport(before=before, after=after)
        step = Step(move=self.id, config=config, plan=plan)
        return MoveResult(model=sampler, step=step, report=report)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Stitch the family's samplers again and extract the same configuration."""
        kinds = {"grid": (int, float), "input_shape": list}
        check_keys(step.config, "The recipe's t-stitch", kinds, {})
        check_keys(step.plan, "The recipe's t-stitch", {"index": int, "fractions": list}, {})
        if not isinstance(base, Family):
            raise RecipeError("The recipe stitches after another move; t-stitch must come first.")
        example = torch.zeros(1, *step.config["input_shape"])
        net = _stitched(base, example, step.config["grid"])
        index, wanted = step.plan["index"], tuple(step.plan["fractions"])
        if not 0 <= index < net.num_configs or net.configs[index].fractions != wanted:
            raise RecipeError(
                f"The recipe takes configuration {index!r} of {net.num_configs} with the fractions "
                f"{list(wanted)}, which it does not have; fit again."
            )
        return net.extract(index)


@dataclass(frozen=True, kw_only=True)
class TStitchEngine(Engine):
    """Stitches samplers; nothing is trained."""

    id: ClassVar[str] = "t-stitch"
    prefix: ClassVar[str] = "ts"
    trains: ClassVar[bool] = False

    def build(self, family: Family, task: Task) -> StitchedSampler:
        """See :class:`~sartor.core.Engine`."""
        return _stitched(family, task.example, GRID)

    def take(self, index: int) -> TStitchMove:
        """See :class:`~sartor.core.Engine`."""
        return TStitchMove(index=index)


def _stitched(family: Family, example: Tensor, grid: float) -> StitchedSampler:
    samplers = dict(zip(family.names, family.models, strict=True))
    return stitch_samplers(samplers, example, grid=grid)
