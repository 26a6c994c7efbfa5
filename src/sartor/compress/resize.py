"""The shapes of a cut model, as JSON: read off one model, put onto another of the original
shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sartor.core.errors import RecipeError

__all__ = ["resize_", "shape_plan"]

_ATTRIBUTES = (
    "attn_dim",
    "in_channels",
    "in_features",
    "num_features",
    "num_heads",
    "out_channels",
    "out_features",
)


def shape_plan(original: nn.Module, cut: nn.Module) -> dict[str, dict[str, Any]]:
    """Describe how the shapes of ``cut`` differ from those of ``original``.

    Args:
        original: before the cut.
        cut: the same modules, some with fewer units.

    Returns:
        ``tensors``: name -> shape of each parameter or buffer that differs; ``attributes``: module
            -> attribute -> number.

    Example:
        >>> shape_plan(nn.Linear(4, 8), nn.Linear(4, 6))["tensors"]
        {'weight': [6, 4], 'bias': [6]}
    """
    before = original.state_dict(keep_vars=True)
    tensors = {
        name: list(value.shape)
        for name, value in cut.state_dict(keep_vars=True).items()
        if before[name].shape != value.shape
    }
    modules = dict(original.named_modules())
    attributes = {}
    for name, module in cut.named_modules():
        changed = {
            a: getattr(module, a)
            for a in _ATTRIBUTES
            if hasattr(module, a) and getattr(module, a) != getattr(modules[name], a)
        }
        if changed:
            attributes[name] = changed
    return {"tensors": tensors, "attributes": attributes}


def resize_(model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
    """Give a model the shapes of a plan; the values of what changes are undefined until weights are
    loaded.

    Raises:
        RecipeError: the plan names parts that the model lacks, other attributes than sizes, or
            larger shapes.
    """
    modules = dict(model.named_modules())
    for name, changed in plan.get("attributes", {}).items():
        for attribute, value in changed.items():
            if name not in modules or attribute not in _ATTRIBUTES or type(value) is not int:
                raise RecipeError(
                    f"The recipe sets {attribute!r} of {name!r} to {value!r}, which no cut does; "
                    "fit again."
                )
            setattr(modules[name], attribute, value)
    for name, shape in plan.get("tensors", {}).items():
        owner, _, leaf = name.rpartition(".")
        old = getattr(modules.get(owner), leaf, None)
        if not isinstance(old, torch.Tensor) or not _is_cut(shape, old.shape):
            raise RecipeError(
                f"The recipe gives {name!r} the shape {shape}, which no cut does; fit again."
            )
        new = old.detach().new_empty(shape)
        setattr(modules[owner], leaf, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    return model


def _is_cut(shape: Any, old: torch.Size) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == len(old)
        and all(type(n) is int and 0 < n <= o for n, o in zip(shape, old, strict=True))
    )
