"""Structural pruning in ``fit``: cut inside the blocks, then recover by a short distilled
training.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import nn

from sartor.compress.prune import PruneConfig, prune_
from sartor.compress.resize import resize_, shape_plan
from sartor.core import Family, Move, MoveContext, MoveResult, RecipeError, Step
from sartor.core.schema import Shape, check_keys

__all__ = ["PruneMove"]


@dataclass(frozen=True, kw_only=True)
class PruneMove(Move):
    """Remove whole heads, channels and hidden units."""

    id: ClassVar[str] = "prune"
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset({"start"})

    config: PruneConfig = field(default_factory=PruneConfig)

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Cut a copy and train it briefly."""
        cut = copy.deepcopy(model)
        report = prune_(cut, context.task.example, self.config)
        plan = shape_plan(model, cut)
        context.recover(cut)
        return MoveResult(
            model=cut, step=Step(move=self.id, config=asdict(self.config), plan=plan), report=report
        )

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Give the model the shapes that the cut left."""
        if isinstance(base, Family):
            raise RecipeError("The recipe prunes before any model is chosen; fit again.")
        kinds: Shape = {"ratio": (int, float), "round_to": int, "heads": bool}
        check_keys(step.config, "The recipe's prune", {}, kinds)
        return resize_(base, step.plan)
