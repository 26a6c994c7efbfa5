"""Families from what the user typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.core.family import Family, Member
from sartor.core.files import read_json
from sartor.core.recipe import Recipe
from sartor.core.registry import attribute
from sartor.core.task import Task
from sartor.nn.check import check_family
from sartor.nn.factory import call_factory
from sartor.nn.from_timm import check_timm_name, create_timm, default_config, fitting_kwargs
from sartor.nn.sources import build, check_source, seeded
from sartor.nn.weights import load_weights_

__all__ = ["PreferredInput", "load_family", "preferred_input"]


@dataclass(frozen=True, kw_only=True)
class PreferredInput:
    """The inputs that published weights were trained on.

    Attributes:
        size: (C, H, W).
        mean: of each channel, of pixels in 0..1.
        std: of each channel, of pixels in 0..1.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class _Named:
    """One parsed entry: its name, its source, and where its weights are."""

    name: str
    source: Mapping[str, Any]
    folder: Path | None = None
    weights: Path | None = None


def load_family(
    models: Sequence[str | Mapping[str, Any]],
    *,
    task: Task | None = None,
    pretrained: bool = False,
    factories: Iterable[str] = (),
    seed: int = 0,
) -> Family:
    """Make a family, sorted by number of parameters, small to large.

    Each model is one of:

    - a timm name, made to fit the task's inputs and classes;
    - ``package.module:function``, a Python function without arguments that returns a module;
    - a checkpoint folder of an earlier run, ``RUN/points/ID``;
    - the first two followed by ``@file``: own weights, ``.safetensors``, ``.pt`` or ``.pth``;
    - a source as in a recipe (see :func:`sartor.nn.build`).

    The global random state is left as found. All models come in eval mode.

    Args:
        models: what to load.
        task: its inputs and classes are what the models must fit; ``None`` takes the models' own.
        pretrained: whether timm models without ``@file`` get their published weights.
        factories: ``package.module:function`` paths that the recipes of checkpoint folders may
            import.
        seed: of weights that are not loaded.

    Raises:
        FamilyError: a model is unknown or cannot be made, or the models do not form a family.
        RecipeError: a checkpoint folder needs a factory that is not in ``factories``.
        ArtifactError: the file of a checkpoint folder is missing or damaged.

    Example:
        >>> family = load_family(["resnet18", "resnet10t"])
        >>> family.names
        ('resnet10t', 'resnet18')
    """
    if isinstance(models, (str, Mapping)):
        models = [models]
    named = _distinct([_parse(model, task) for model in models])
    if task is None:
        _check_sizes(named)
    allowed = tuple(factories)
    members = [
        Member(
            name=entry.name,
            source=entry.source,
            model=_make(entry, pretrained=pretrained, factories=allowed, seed=seed),
        )
        for entry in named
    ]
    family = Family(tuple(sorted(members, key=lambda member: _parameters(member.model))))
    example = task.example if task else _own_example(named)
    if example is not None:
        check_family(family, example, task.num_classes if task else None)
    return family


def preferred_input(models: Sequence[str | Mapping[str, Any]]) -> PreferredInput | None:
    """What the published weights of a family's timm models were trained on; nothing is downloaded.

    The size is that of the first model that is built for one size, else that of the first timm
    model; mean and deviation are the first timm model's. ``None`` if no model is timm's.

    Raises:
        FamilyError: a timm name is unknown.

    Example:
        >>> preferred_input(["deit_tiny_patch16_224"]).size
        (3, 224, 224)
    """
    configs = [default_config(e.source["name"]) for e in _timm([_parse(m, None) for m in models])]
    if not configs:
        return None
    sized = next((config for config in configs if config.fixed_input_size), configs[0])
    return PreferredInput(
        size=tuple(sized.input_size), mean=tuple(configs[0].mean), std=tuple(configs[0].std)
    )


def _parse(model: str | Mapping[str, Any], task: Task | None) -> _Named:
    if isinstance(model, Mapping):
        kind = check_source(model)
        return _Named(name=str(model.get("name", kind)), source=dict(model))
    if (Path(model) / "recipe.json").is_file():
        recipe = Recipe.from_dict(read_json(Path(model) / "recipe.json"))
        source = {"kind": "recipe", "recipe": recipe.to_dict()}
        return _Named(name=Path(model).resolve().name, source=source, folder=Path(model))
    text, _, file = model.partition("@")
    weights = Path(file) if file else None
    if ":" in text and "/" not in text:
        source = {"kind": "factory", "path": text, "kwargs": {}}
        return _Named(name=text.partition(":")[2], source=source, weights=weights)
    if Path(text).is_dir() or "/" in text:
        raise FamilyError(
            f"The model {model!r} is not a checkpoint folder, as it has no recipe.json; give a "
            "timm name, package.module:function, or a folder RUN/points/ID."
        )
    check_timm_name(text)
    shape = task.input_shape if task else None
    kwargs = fitting_kwargs(text, shape, task.num_classes if task else None)
    return _Named(
        name=text, source={"kind": "timm", "name": text, "kwargs": kwargs}, weights=weights
    )


def _make(entry: _Named, *, pretrained: bool, factories: tuple[str, ...], seed: int) -> nn.Module:
    """Build one model, with its weights, in eval mode."""
    source, kind = entry.source, entry.source["kind"]
    model: nn.Module
    if kind == "recipe" and entry.folder is not None:
        replay = attribute("sartor.moves.replay:replay")
        recipe = Recipe.from_dict(source["recipe"])
        model = replay(recipe, entry.folder, family=None, factories=factories)
    elif kind == "factory":
        with seeded(seed):
            model = call_factory(source["path"], source.get("kwargs", {}))
    elif kind == "timm" and pretrained and entry.weights is None:
        with seeded(seed):
            model = create_timm(source["name"], source.get("kwargs", {}), pretrained=True)
    else:
        model = build(source, factories=factories, seed=seed)
    if entry.weights is not None:
        load_weights_(
            model, entry.weights, name=entry.name, official_key=_official_key(entry.source)
        )
    return model.eval()


def _official_key(source: Mapping[str, Any]) -> Callable[[str], str | None] | None:
    """How the authors of one of sartor's backbones called its weights."""
    if source["kind"] != "timm":
        return None
    backbone = attribute("sartor.nn.backbones:BACKBONES").get(source["name"])
    return backbone.official_key if backbone else None


def _distinct(entries: Sequence[_Named]) -> list[_Named]:
    """Number the names that repeat: ``a``, ``a-2``, ``a-3``."""
    seen: dict[str, int] = {}
    distinct = []
    for entry in entries:
        seen[entry.name] = seen.get(entry.name, 0) + 1
        suffix = f"-{seen[entry.name]}" if seen[entry.name] > 1 else ""
        distinct.append(
            _Named(
                name=entry.name + suffix,
                source=entry.source,
                folder=entry.folder,
                weights=entry.weights,
            )
        )
    return distinct


def _timm(entries: Iterable[_Named]) -> list[_Named]:
    return [entry for entry in entries if entry.source["kind"] == "timm"]


def _check_sizes(entries: Sequence[_Named]) -> None:
    """Without a task, models that are built for one input size must be built for the same."""
    sizes = {
        entry.name: tuple(config.input_size)
        for entry in _timm(entries)
        if (config := default_config(entry.source["name"])).fixed_input_size
    }
    first = next(iter(sizes), "")
    for name, size in sizes.items():
        if size != sizes[first]:
            raise FamilyError(
                f"The models {first!r} and {name!r} take inputs of {sizes[first]} and {size}; give "
                "models of one input size, or a task whose size they are to be made for."
            )


def _own_example(entries: Sequence[_Named]) -> Tensor | None:
    """Without a task, one input of the size that the first timm model was made for."""
    configs = [default_config(entry.source["name"]) for entry in _timm(entries)]
    sized = next((config for config in configs if config.fixed_input_size), None) or next(
        iter(configs), None
    )
    return torch.zeros(1, *sized.input_size) if sized else None


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
