"""Token pooling in ``fit``: shorten the sequence of a transformer, then recover by a short
distilled
training.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from sartor.compress.hvt import TokenPoolConfig, install_pools_, plan_pools, pool_tokens_
from sartor.core import Family, Move, MoveContext, MoveResult, RecipeError, Step
from sartor.core.schema import Shape, check_keys

__all__ = ["TokenPoolMove"]

_KINDS: Shape = {
    "every": (int, type(None)),
    "after": list,
    "kernel_size": int,
    "stride": int,
    "mode": str,
    "keep_class_token": bool,
}


@dataclass(frozen=True, kw_only=True)
class TokenPoolMove(Move):
    """Pool the tokens after some blocks."""

    id: ClassVar[str] = "hvt"
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset({"start"})

    config: TokenPoolConfig = field(default_factory=TokenPoolConfig)

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Pool in a copy and train it briefly."""
        pooled = copy.deepcopy(model)
        plan = plan_pools(model, context.task.example, self.config)
        report = pool_tokens_(pooled, context.task.example, self.config)
        context.recover(pooled)
        config: dict[str, Any] = {**asdict(self.config), "after": list(self.config.after)}
        step = Step(move=self.id, config=config, plan=plan)
        return MoveResult(model=pooled, step=step, report=report)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Put the pools where they were."""
        if isinstance(base, Family):
            raise RecipeError("The recipe pools tokens before any model is chosen; fit again.")
        check_keys(step.config, "The recipe's hvt", {}, _KINDS)
        install_pools_(base, step.plan, TokenPoolConfig(**step.config))
        return base
