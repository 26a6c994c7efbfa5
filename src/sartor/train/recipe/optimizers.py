"""The optimisers that a recipe names, from torch, timm, torchao and sartor."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from sartor.core.errors import NoEffectError, RecipeError
from sartor.core.packages import require
from sartor.train.came.optimizer import CAME
from sartor.train.cowclip.optimizer import CowClip
from sartor.train.job import OptimizerFactory
from sartor.train.low_precision.adamw import low_bit_adamw
from sartor.train.recipe.recipe import Recipe

__all__ = ["make_optimizer"]

Groups = list[dict[str, Any]]

#: torchao leaves smaller tensors as they are
_LOW_BIT_NUMEL = 4096


def make_optimizer(recipe: Recipe, model: nn.Module) -> tuple[OptimizerFactory, str]:
    """How a recipe's optimiser is made, and that in words.

    Args:
        recipe: names it; with ``embeddings="cowclip"`` it is Adam within CowClip.
        model: its parameters will be optimised.

    Raises:
        NoEffectError: the optimiser would treat every parameter as AdamW does.
        RecipeError: CowClip finds no tables that it could clip.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if recipe.embeddings == "cowclip":
        return _cowclip(recipe, model)
    matrices = sum(p.ndim > 1 for p in trained)
    if not matrices:
        raise NoEffectError(
            f"The model has no matrices, which {recipe.optimizer} is made for; leave optimizer out."
        )
    large = sum(p.numel() >= _LOW_BIT_NUMEL for p in trained)
    if recipe.optimizer.startswith("adamw"):
        if not large:
            raise NoEffectError(
                f"No tensor of the model has {_LOW_BIT_NUMEL} values, below which "
                f"{recipe.optimizer} keeps float32 moments; leave optimizer out."
            )
        said = f"{recipe.optimizer} holds moments of {large} of {len(trained)} tensors in few bits"
        return _FACTORIES[recipe.optimizer], said
    said = f"{recipe.optimizer} steps {matrices} matrices and {len(trained) - matrices} vectors"
    return _FACTORIES[recipe.optimizer], said


def _came(groups: Groups) -> torch.optim.Optimizer:
    return CAME(groups, lr=groups[0]["lr"])


def _low_bit(bits: int | str, groups: Groups) -> torch.optim.Optimizer:
    return low_bit_adamw(groups, bits, lr=groups[0]["lr"])


def _timm(name: str, groups: Groups) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = getattr(require("timm.optim"), name)(groups)
    return made


_FACTORIES: dict[str, OptimizerFactory] = {
    "came": _came,
    "adafactor": torch.optim.Adafactor,
    "adamw8bit": partial(_low_bit, 8),
    "adamw4bit": partial(_low_bit, 4),
    "adamwfp8": partial(_low_bit, "fp8"),
    "lion": partial(_timm, "Lion"),
    "muon": partial(_timm, "Muon"),
    "lamb": partial(_timm, "Lamb"),
    "lars": partial(_timm, "Lars"),
}


# --- embedding tables -----------------------------------------------------------------------------


def _cowclip(recipe: Recipe, model: nn.Module) -> tuple[OptimizerFactory, str]:
    """Adam with the penalty of the published recipe; the tables' rate does not grow with the
    batch. Unlike there it warms up as all rates do, and what is no table keeps its weight decay.
    """
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    if not tables:
        raise NoEffectError("The model has no embeddings; leave embeddings='cowclip' out.")

    def factory(groups: Groups) -> torch.optim.Optimizer:
        own = {id(table.weight) for table in tables}
        rate = groups[0]["lr"] / recipe.batch_factor**0.5
        made: Groups = [{"params": [], "lr": rate, "weight_decay": 0.0}]
        for group in groups:
            made[0]["params"] += [p for p in group["params"] if id(p) in own]
            rest = [p for p in group["params"] if id(p) not in own]
            made.append({**group, "params": rest})
        adam = torch.optim.AdamW([group for group in made if group["params"]])
        return CowClip(adam, model, l2=_L2 * recipe.batch_factor)

    if _L2 * recipe.batch_factor > 0.5:
        raise RecipeError(
            f"CowClip's penalty would grow to {_L2 * recipe.batch_factor:g}, above 0.5; take a "
            "smaller batch_factor."
        )
    said = (
        f"gradients of {len(tables)} embedding tables are clipped by id, with a penalty of "
        f"{_L2 * recipe.batch_factor:g} instead of weight decay"
    )
    return factory, said


#: weight of the squared entries of the tables at batch_factor 1, the published one
_L2 = 1e-5
