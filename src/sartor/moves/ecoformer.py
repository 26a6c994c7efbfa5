"""EcoFormer in ``fit``: hash the attention of a model, then recover by a short distilled
training.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import nn

from sartor.compress.ecoformer import EcoConfig, convert_attention_, hash_attention_, plan_eco
from sartor.core import Family, Move, MoveContext, MoveResult, RecipeError, Step
from sartor.core.schema import Shape, check_keys
from sartor.nn.sources import seeded

__all__ = ["EcoMove"]

_KINDS: Shape = {
    "layers": list,
    "share_qk": str,
    "num_bits": int,
    "num_anchors": (int, type(None)),
    "bias": str,
    "topk": (int, type(None)),
    "steps": int,
    "lr": (int, float),
    "images": int,
    "seed": int,
}


@dataclass(frozen=True, kw_only=True)
class EcoMove(Move):
    """Replace softmax attention by EcoAttention with fitted hashes."""

    id: ClassVar[str] = "ecoformer"
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset({"start"})

    config: EcoConfig = field(default_factory=EcoConfig)

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Convert a copy, fit its hashes on training images, and train it briefly."""
        hashed = copy.deepcopy(model)
        with seeded(self.config.seed):
            images = context.task.batch(self.config.images).to(next(model.parameters()).device)
        plan, _ = plan_eco(model, images[:1], self.config)
        report = hash_attention_(hashed, images, self.config)
        context.recover(hashed)
        config = {**asdict(self.config), "layers": list(self.config.layers)}
        step = Step(move=self.id, config=config, plan={"anchors": plan})
        return MoveResult(model=hashed, step=step, report=report)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Put EcoAttention where it was; the fitted hashes come with the weights."""
        if isinstance(base, Family):
            raise RecipeError("The recipe hashes attention before any model is chosen; fit again.")
        check_keys(step.config, "The recipe's ecoformer", {}, _KINDS)
        check_keys(step.plan, "The recipe's plan of ecoformer", {"anchors": dict}, {})
        given = {**step.config, "layers": tuple(step.config.get("layers", ()))}
        convert_attention_(base, step.plan["anchors"], EcoConfig(**given))
        return base
