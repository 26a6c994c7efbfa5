"""The switches of a recipe, one function each: what is switched on changes the setup."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sartor.core.elastic import Elastic
from sartor.core.errors import NoEffectError, RecipeError, TrainingError
from sartor.core.packages import require
from sartor.data.memory import same_loader
from sartor.train.checkpointing import checkpoint_blocks_, repeated_blocks
from sartor.train.infobatch.data import prune_data
from sartor.train.infobatch.draw import InfoBatchSettings
from sartor.train.infobatch.loss import PruningLoss
from sartor.train.infobatch.sampler import LossPruningSampler
from sartor.train.job import several_on_cpus
from sartor.train.mesa.context import mesa_
from sartor.train.mesa.settings import MesaSettings
from sartor.train.recipe.optimizers import make_optimizer
from sartor.train.recipe.recipe import Recipe
from sartor.train.recipe.setup import Setup
from sartor.train.token_crisis.dropout import DropoutSchedule

__all__ = ["set_up"]


@contextmanager
def set_up(recipe: Recipe, setup: Setup) -> Iterator[Setup]:
    """Switch on what a recipe asks for, and off again at the end.

    Args:
        recipe: see :class:`~sartor.train.Recipe`.
        setup: of the plain training; changed in place.

    Raises:
        SartorError: a switch does not fit this model, these data or this machine; says why.
    """
    with setup.undo:
        for switch in _ORDER:
            switch(recipe, setup)
        yield setup


def _precision(recipe: Recipe, setup: Setup) -> None:
    if recipe.precision == "no":
        return
    if setup.settings.precision not in ("no", recipe.precision):
        raise RecipeError(
            f"The recipe asks for {recipe.precision} and the settings for "
            f"{setup.settings.precision}; give one of them."
        )
    if recipe.precision == "fp16" and _device().type == "cpu":
        raise RecipeError("fp16 needs a GPU, as a CPU computes it slowly; take bf16 or none.")
    setup.settings = replace(setup.settings, precision=recipe.precision)
    setup.changes.append(f"the forward pass runs in {recipe.precision}")


def _device() -> torch.device:
    """Where accelerate will train."""
    device: torch.device = require("accelerate").PartialState(cpu=several_on_cpus()).device
    return device


# --- data -----------------------------------------------------------------------------------------


def _batch_factor(recipe: Recipe, setup: Setup) -> None:
    factor, data = recipe.batch_factor, setup.batches
    if factor == 1:
        return
    if not isinstance(data, DataLoader) or data.batch_size is None:
        raise TrainingError(
            "Larger batches need a torch DataLoader with a batch_size, got "
            f"{type(data).__name__}; give one or leave batch_factor out."
        )
    size, samples = factor * data.batch_size, len(data.sampler)  # type: ignore[arg-type]
    if size > samples:
        raise TrainingError(
            f"{factor} batches of {data.batch_size} are more than the {samples} samples of an "
            f"epoch; take a batch_factor of {samples // data.batch_size} at most."
        )
    setup.batches = same_loader(data, batch_size=size)
    growth = factor if recipe.optimizer == "lars" else math.sqrt(factor)
    plain = setup.settings
    setup.settings = replace(
        plain, lr=plain.lr * growth, warmup_epochs=max(plain.warmup_epochs, 1.0)
    )
    setup.changes.append(
        f"batches of {size} instead of {data.batch_size}, learning rate {setup.settings.lr:.3g} "
        f"instead of {plain.lr:.3g}, {setup.settings.warmup_epochs:g} epochs of warm-up"
    )


def _data_pruning(recipe: Recipe, setup: Setup) -> None:
    if recipe.data_pruning == "no":
        return
    settings = InfoBatchSettings(seed=setup.settings.seed)
    data = prune_data(setup.batches, epochs=setup.settings.epochs, settings=settings)
    assert isinstance(data.sampler, LossPruningSampler)
    setup.batches, setup.loss = data, PruningLoss(data.sampler, setup.loss)
    setup.changes.append("samples whose loss is below the mean are left out every other epoch")


def _progressive(recipe: Recipe, setup: Setup) -> None:
    schedule, loss, total = recipe.progressive, setup.loss, 0
    if schedule is None:
        return
    total, size = setup.total_steps, schedule.start

    def grow(step: int) -> None:
        nonlocal size
        size = schedule.size(step, total)

    def shrunk(model: nn.Module, inputs: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
        return loss(model, *schedule.shrink(inputs, targets, size), *rest)

    setup.loss = shrunk
    setup.before.append(grow)
    setup.changes.append(
        f"the {schedule.field} grows from {schedule.start} to {schedule.end} in the first "
        f"{schedule.until:.0%} of the steps"
    )


# --- model ----------------------------------------------------------------------------------------


def _token_drop(recipe: Recipe, setup: Setup) -> None:
    if not recipe.token_drop:
        return
    models = [m for m in setup.model.modules() if isinstance(m, nn.Module) and _drops_patches(m)]
    if not models:
        raise NoEffectError(
            f"{type(setup.model).__name__} holds no timm VisionTransformer that pools its patch "
            "tokens or reads a class token; leave token_drop out."
        )
    dropout = require("timm.layers").PatchDropout
    until = recipe.token_drop_until * setup.total_steps
    sites = []
    for model in models:
        site = dropout(recipe.token_drop, num_prefix_tokens=model.num_prefix_tokens)
        setup.undo.callback(setattr, model, "patch_drop", model.patch_drop)
        model.patch_drop = site
        sites.append(site)

    def set_rate(step: int) -> None:
        for site in sites:
            site.prob = recipe.token_drop if step < until else 0.0

    setup.before.append(set_rate)
    setup.changes.append(
        f"{recipe.token_drop:.0%} of the patch tokens are dropped in the first "
        f"{recipe.token_drop_until:.0%} of the steps"
    )


def _drops_patches(model: nn.Module) -> bool:
    """Whether it is a ViT of timm's that classifies, not one that gives out a map of tokens."""
    return hasattr(model, "patch_drop") and bool(getattr(model, "global_pool", ""))


def _late_dropout(recipe: Recipe, setup: Setup) -> None:
    if not recipe.late_dropout:
        return
    schedule = DropoutSchedule(
        setup.model,
        total_steps=setup.total_steps,
        rate=recipe.late_dropout,
        start=recipe.late_dropout_start,
    )
    setup.undo.callback(schedule.restore)
    setup.before.append(schedule)
    setup.changes.append(
        f"{len(schedule.sites)} dropouts have rate {recipe.late_dropout:g} after "
        f"{recipe.late_dropout_start:.0%} of the steps and none before"
    )


def _checkpointing(recipe: Recipe, setup: Setup) -> None:
    if recipe.checkpointing == "no":
        return
    setup.undo.callback(checkpoint_blocks_(setup.model, recipe.checkpointing))
    kept = ", but their matrix products" if recipe.checkpointing == "selective" else ""
    setup.changes.append(f"{len(repeated_blocks(setup.model))} blocks are computed again{kept}")


def _activations(recipe: Recipe, setup: Setup) -> None:
    if recipe.activations == "offload":
        if _device().type == "cpu":
            raise NoEffectError(
                "The activations of a training on the CPU are in its memory already; leave offload "
                "out."
            )
        setup.around.append(lambda: torch.autograd.graph.save_on_cpu(pin_memory=True))
        setup.changes.append("activations wait in the CPU's memory for the backward pass")
    if recipe.activations == "mesa":
        # the paths of an elastic net take turns, so that there is no range to average over steps
        paths = any(isinstance(module, Elastic) for module in setup.model.modules())
        settings = MesaSettings(seed=setup.settings.seed, momentum=None if paths else 0.9)
        mesa = mesa_(setup.model, settings)
        setup.undo.callback(mesa.remove)
        setup.parts["mesa"] = mesa
        setup.changes.append("activations are kept in 8 bits")


def _compile(recipe: Recipe, setup: Setup) -> None:
    if not recipe.compile:
        return
    if any(isinstance(module, Elastic) for module in setup.model.modules()):
        raise RecipeError(
            "An elastic net changes its path at every step and would be compiled anew for each; "
            "leave compile out."
        )
    setup.model.compile()
    setup.undo.callback(setattr, setup.model, "_compiled_call_impl", None)
    setup.changes.append("the model is compiled")


# --- optimiser ------------------------------------------------------------------------------------


def _optimizer(recipe: Recipe, setup: Setup) -> None:
    plain = setup.settings
    if recipe.lr_scale != 1:
        setup.settings = replace(plain, lr=plain.lr * recipe.lr_scale)
        setup.changes.append(f"learning rate {setup.settings.lr:.3g} instead of {plain.lr:.3g}")
    if recipe.optimizer == "adamw" and recipe.embeddings == "plain":
        return
    if setup.optimizer is not None:
        raise RecipeError(
            "The recipe names an optimiser and optimizer= makes another one; give one of them."
        )
    setup.optimizer, said = make_optimizer(recipe, setup.model)
    setup.changes.append(said)


_ORDER = (
    *(_precision, _batch_factor, _data_pruning, _progressive, _token_drop, _late_dropout),
    *(_checkpointing, _activations, _optimizer, _compile),
)
