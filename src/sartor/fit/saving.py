"""What ``fit --save`` switches on in every training of a run, and what that saved, in words."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core import Target
from sartor.fit.words import bytes_text
from sartor.measure import peak_memory_bytes
from sartor.train import History, Recipe, TrainSettings, repeated_blocks
from sartor.train.recipe.setup import Setup
from sartor.train.recipe.switches import set_up

__all__ = ["SAVINGS", "saved_text", "saving_recipe", "step_bytes", "training_record"]

#: what can be saved
SAVINGS = ("data", "memory", "steps")


def saving_recipe(save: Sequence[str], model: nn.Module) -> Recipe:
    """The recipe of a training that is to save something.

    ``data``: InfoBatch. ``memory``: blocks are computed again, which is exact; activations in 8
    bits (Mesa) where a model has no list of blocks. ``steps``: batches of twice the size, with
    Muon (timm), whose steps lead further than AdamW's.

    Args:
        save: of :data:`SAVINGS`.
        model: to be trained.

    Example:
        >>> saving_recipe(["data", "steps"], nn.Linear(1, 1)).active().keys()
        dict_keys(['optimizer=muon', 'data_pruning=infobatch', 'batch_factor'])
    """
    blocks = bool(repeated_blocks(model))
    return Recipe(
        data_pruning="infobatch" if "data" in save else "no",
        checkpointing="blocks" if "memory" in save and blocks else "no",
        activations="mesa" if "memory" in save and not blocks else "exact",
        batch_factor=2 if "steps" in save else 1,
        optimizer="muon" if "steps" in save else "adamw",
    )


def step_bytes(
    model: nn.Module,
    batch: Sequence[Tensor],
    loss: Callable[..., Tensor],
    save: Sequence[str],
) -> tuple[int, int]:
    """The most that one forward and backward pass takes on top of weights and inputs, without and
    with what saves memory.

    Args:
        model: copied, so that neither its weights nor its statistics change.
        batch: inputs (B, ...), targets (B, ...).
        loss: (outputs, targets) -> scalar.
        save: of :data:`SAVINGS`; all but ``memory`` is left aside.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    target = Target.parse(f"{device}/eager")
    inputs, targets = (part.to(device) for part in batch)
    memory = [word for word in save if word == "memory"]

    def peak(recipe: Recipe) -> int:
        net = copy.deepcopy(model).to(device).train()
        for parameter in net.parameters():
            parameter.requires_grad_(True)

        def step() -> None:
            torch.autograd.backward([loss(net(inputs), targets)])
            net.zero_grad()

        plain = Setup(model=net, batches=[], loss=loss, settings=TrainSettings())
        with torch.random.fork_rng(), set_up(recipe, plain):
            step()
            found = peak_memory_bytes(step, target)
        assert found is not None
        return found

    return peak(Recipe()), peak(saving_recipe(memory, model))


def training_record(history: History, loader: Any) -> dict[str, Any]:
    """What a training took, and what it would have taken without saving; JSON-ready.

    Args:
        history: of the training.
        loader: that a plain training goes through; without a length nothing is compared.
    """
    epochs, size = len(history.losses), getattr(loader, "batch_size", None)
    record = {
        "samples": sum(history.samples),
        "steps": sum(history.steps),
        "seconds": sum(history.seconds),
    }
    if not size:
        return {**record, "plain_samples": record["samples"], "plain_steps": record["steps"]}
    samples = min(len(loader) * size, len(loader.sampler))
    return {**record, "plain_samples": epochs * samples, "plain_steps": epochs * len(loader)}


def saved_text(
    save: Sequence[str], trainings: Sequence[Mapping[str, Any]], memory: Sequence[int] = ()
) -> tuple[str, ...]:
    """A sentence on what each word of ``--save`` saved.

    Args:
        save: of :data:`SAVINGS`.
        trainings: what :func:`training_record` said of each.
        memory: bytes of a step without and with; empty if it was not measured.
    """
    trainings = [one for one in trainings if one["steps"]]
    if not trainings:
        return ()
    total = {key: sum(one[key] for one in trainings) for key in ("samples", "steps", "seconds")}
    plain = {key: sum(one[f"plain_{key}"] for one in trainings) for key in ("samples", "steps")}
    share = {key: 1 - total[key] / plain[key] for key in plain}
    where = f"{len(trainings)} training{'s' * (len(trainings) > 1)} of {total['seconds']:.1f} s"
    said = {
        "data": f"{where} saw {total['samples']:,} samples instead of {plain['samples']:,} "
        f"({share['samples']:.0%} less)",
        "steps": f"{where} took {total['steps']:,} steps instead of {plain['steps']:,} "
        f"({share['steps']:.0%} less)",
    }
    if memory:
        said["memory"] = (
            f"a training step of the largest model takes {bytes_text(memory[1])} instead of "
            f"{bytes_text(memory[0])} on top of its weights ({1 - memory[1] / memory[0]:.0%} less)"
        )
    return tuple(f"--save {word}: {said[word]}." for word in save if word in said)
