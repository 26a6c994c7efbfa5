"""Sources: JSON descriptions of where an architecture comes from, and how it is built again."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sartor.core.errors import FamilyError, RecipeError, nearest
from sartor.core.recipe import Recipe
from sartor.core.registry import attribute
from sartor.core.schema import Shape, check_keys
from sartor.nn.factory import call_factory
from sartor.nn.from_timm import create_timm
from sartor.nn.tiny_vit import tiny_vit

__all__ = ["build", "check_source", "seeded"]

#: required and optional keys of each kind
_KEYS: Mapping[str, tuple[Shape, Shape]] = {
    "factory": ({"path": str}, {"kwargs": dict}),
    "module": ({}, {}),
    "recipe": ({"recipe": dict}, {}),
    "timm": ({"name": str}, {"kwargs": dict}),
    "tiny_vit": ({}, {"kwargs": dict}),
}


def build(source: Mapping[str, Any], *, factories: Iterable[str] = (), seed: int = 0) -> nn.Module:
    """Build an architecture from its source; its weights are random.

    Nothing is downloaded and no file is executed. The global random state is left as found.

    Args:
        source: ``{"kind": "timm", "name": ..., "kwargs": {...}}``, ``{"kind": "tiny_vit",
            "kwargs": {...}}``, ``{"kind": "factory", "path": "package.module:function",
            "kwargs": {...}}`` or ``{"kind": "recipe", "recipe": {...}}``.
        factories: paths of factories that may be imported.
        seed: of the random weights.

    Returns:
        The module, in eval mode.

    Raises:
        RecipeError: the source has unknown keys, or a factory that is not in ``factories``.
        FamilyError: there is no such model, or it cannot be built with these arguments.

    Example:
        >>> model = build({"kind": "tiny_vit", "kwargs": {"embed_dim": 8}})
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    kind, allowed = check_source(source), tuple(factories)
    kwargs = source.get("kwargs", {})
    if kind == "module":
        raise FamilyError(
            "A model that only Python holds cannot be built from its recipe; pass family= with the "
            "models that it was made from."
        )
    if kind == "factory" and source["path"] not in allowed:
        raise RecipeError(
            f"The recipe was made with the factory {source['path']!r}, which would be imported; if "
            f"you trust it, pass factories=[{source['path']!r}]."
        )
    model: nn.Module
    with seeded(seed):
        if kind == "timm":
            model = create_timm(source["name"], kwargs)
        elif kind == "factory":
            model = call_factory(source["path"], kwargs)
        elif kind == "tiny_vit":
            model = _tiny_vit(kwargs)
        else:
            replay = attribute("sartor.moves.replay:replay")
            recipe = Recipe.from_dict(source["recipe"])
            model = replay(recipe, None, family=None, factories=allowed)
    return model.eval()


def check_source(source: Any) -> str:
    """Check keys and types of a source; return its kind.

    Raises:
        RecipeError: names what is unknown, missing or of a wrong type.
    """
    kind = source.get("kind") if isinstance(source, Mapping) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise RecipeError(
            f"The source of a model has the kind {kind!r}; {nearest(str(kind), _KEYS)}"
        )
    required, optional = _KEYS[kind]
    check_keys(source, f"The {kind} source", {"kind": str, **required}, optional)
    return kind


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside, and give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _tiny_vit(kwargs: Mapping[str, Any]) -> nn.Module:
    legal = inspect.signature(tiny_vit).parameters
    check_keys(kwargs, "The tiny_vit", {}, dict.fromkeys(legal, int))
    return tiny_vit(**kwargs)
