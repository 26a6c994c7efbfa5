"""Replay a recipe: from its base and its steps to the model, without training and without running
any file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.core import ArtifactError, Family, Member, Move, Recipe, RecipeError, Split, Step
from sartor.core.errors import nearest
from sartor.core.registry import attribute, moves
from sartor.nn import build
from sartor.train import load_tensors

__all__ = ["describe_base", "replay"]


def describe_base(family: Family) -> tuple[dict[str, Any], ...]:
    """The base of a recipe that starts from that family."""
    return tuple(
        {"name": m.name, "source": dict(m.source), "split": m.split.to_dict() if m.split else None}
        for m in family
    )


def replay(
    recipe: Recipe,
    folder: Path | None,
    *,
    family: Family | None = None,
    factories: Iterable[str] = (),
) -> nn.Module:
    """Rebuild a model and load its weights.

    Args:
        recipe: how it was made.
        folder: holds ``model.safetensors``, or the deployed file if the last move makes one;
            ``None`` leaves the weights random.
        family: the models it was made from, where they exist in Python alone.
        factories: ``package.module:function`` names that may be imported.

    Returns:
        The model in eval mode.

    Raises:
        RecipeError: the recipe names what does not exist.
        ArtifactError: the weights are damaged or do not fit.
    """
    kinds = [_move(step) for step in recipe.steps]
    if not kinds:
        raise RecipeError("The recipe has no steps; fit again.")
    for kind in kinds[:-1]:
        if kind.artifact:
            raise RecipeError(
                f"The recipe goes on after {kind.id}, which can only be last; fit again."
            )
    if kinds[-1].artifact:
        return _deployed(kinds[-1], recipe.steps[-1], folder)
    model: Any = family or _family(recipe, factories)
    with torch.random.fork_rng():
        for kind, step in zip(kinds, recipe.steps, strict=True):
            model = kind.rebuild(model, step, folder or Path())
    if folder is None:
        return model.eval()
    try:
        model.load_state_dict(load_tensors(folder / "model.safetensors"))
    except RuntimeError as error:
        detail = str(error).splitlines()[1:2]
        raise ArtifactError(
            f"The weights in {folder} do not fit the recipe ({''.join(detail).strip()[:120]}); "
            "fit again."
        ) from error
    return model.eval()


def _deployed(kind: type[Move], step: Step, folder: Path | None) -> nn.Module:
    """Open the file that the last move made; what it was made from is not needed."""
    if folder is None:
        raise RecipeError(f"A model made by {kind.id} is a file; give the folder that holds it.")
    return kind.rebuild(nn.Identity(), step, folder).eval()


def _move(step: Step) -> type[Move]:
    table = moves()
    if step.move not in table:
        raise RecipeError(
            f"The recipe has the unknown move {step.move!r}; {nearest(step.move, table)}"
        )
    kind: type[Move] = attribute(table[step.move].move)
    return kind


def _family(recipe: Recipe, factories: Iterable[str]) -> Family:
    allowed = tuple(factories)
    return Family(
        tuple(
            Member(
                name=entry["name"],
                model=build(entry["source"], factories=allowed),
                source=entry["source"],
                split=Split.from_dict(entry["split"]) if entry.get("split") else None,
            )
            for entry in recipe.base
        )
    )
