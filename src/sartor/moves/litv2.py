"""HiLo in ``fit``: swap the attention of a model, then recover by a short distilled training."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import nn

from sartor.compress.litv2 import HiLoConfig, install_hilo_, plan_hilo, swap_attention_
from sartor.core import Family, Move, MoveContext, MoveResult, RecipeError, Step
from sartor.core.schema import Shape, check_keys

__all__ = ["HiLoMove"]


@dataclass(frozen=True, kw_only=True)
class HiLoMove(Move):
    """Replace plain attention by HiLo."""

    id: ClassVar[str] = "litv2"
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset({"start"})

    config: HiLoConfig = field(default_factory=HiLoConfig)

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Swap in a copy and train it briefly."""
        swapped = copy.deepcopy(model)
        plan, _ = plan_hilo(model, context.task.example)
        report = swap_attention_(swapped, context.task.example, self.config)
        context.recover(swapped)
        step = Step(move=self.id, config=asdict(self.config), plan=plan)
        return MoveResult(model=swapped, step=step, report=report)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Put HiLo where it was."""
        if isinstance(base, Family):
            raise RecipeError("The recipe swaps attention before any model is chosen; fit again.")
        kinds: Shape = {"window_size": int, "alpha": (int, float)}
        check_keys(step.config, "The recipe's litv2", {}, kinds)
        install_hilo_(base, step.plan, HiLoConfig(**step.config))
        return base
