"""The first step of an anchor's recipe: one model of the family, as it is."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from sartor.core import Family, Move, MoveContext, MoveReport, MoveResult, RecipeError, Step
from sartor.core.schema import check_keys

__all__ = ["AnchorMove"]


@dataclass(frozen=True, kw_only=True)
class AnchorMove(Move):
    """Take the model of that index in the family."""

    id: ClassVar[str] = "anchor"
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset()

    index: int

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Return the model itself, with the step that names it."""
        counts = {"params": float(sum(p.numel() for p in model.parameters()))}
        step = Step(move=self.id, plan={"index": self.index})
        return MoveResult(model=model, step=step, report=MoveReport(before=counts, after=counts))

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Copy the model of that index out of the family."""
        check_keys(step.config, "The recipe's anchor", {}, {})
        check_keys(step.plan, "The recipe's anchor", {"index": int}, {})
        index = step.plan["index"]
        if not isinstance(base, Family) or not 0 <= index < len(base):
            raise RecipeError(
                f"The recipe takes anchor {index!r}, which its family lacks; fit again."
            )
        return copy.deepcopy(base.models[index])
