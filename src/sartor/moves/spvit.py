"""SPViT in ``fit``: search for cheaper parts of a model, put them in, then recover by a short
distilled training.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import nn

from sartor.compress.spvit import SPViTConfig, compact_, prune_attention_
from sartor.compress.spvit_search import Architecture
from sartor.core import Family, Move, MoveContext, MoveResult, RecipeError, Step
from sartor.core.schema import Shape, check_keys

__all__ = ["SPViTMove"]

_NUMBER = (int, float)
_KINDS: Shape = {
    "ratio": _NUMBER,
    "steps": int,
    "lr": _NUMBER,
    "arch_lr": _NUMBER,
    "lam_rel": _NUMBER,
    "alpha": _NUMBER,
    "seed": int,
}


@dataclass(frozen=True, kw_only=True)
class SPViTMove(Move):
    """Turn attention into convolutions or nothing, and thin feed-forward layers."""

    id: ClassVar[str] = "spvit"
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset({"start"})

    config: SPViTConfig = field(default_factory=SPViTConfig)

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Search on the training data, change a copy and train it briefly."""
        pruned = copy.deepcopy(model)
        task = context.task
        report, found = prune_attention_(
            pruned, task.train, lambda m, x, y: task.loss(m(x), y), self.config
        )
        context.recover(pruned)
        step = Step(move=self.id, config=asdict(self.config), plan=found.to_dict())
        return MoveResult(model=pruned, step=step, report=report)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Build the architecture that was found; its weights are loaded afterwards."""
        if isinstance(base, Family):
            raise RecipeError("The recipe prunes attention before any model is chosen; fit again.")
        check_keys(step.config, "The recipe's spvit", {}, _KINDS)
        config = SPViTConfig(**step.config)
        return compact_(base, Architecture.from_dict(step.plan), alpha=config.alpha)
