"""The shapes of a cut model, as JSON: read off one model, put onto another of the original
shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sartor.core.errors import RecipeError
from sartor.core.schema import check_keys

__all__ = ["resize_", "shape_plan"]

_ATTRIBUTES = (
    "attn_dim",
    "groups",
    "in_channels",
    "in_features",
    "normalized_shape",
    "num_channels",
    "num_features",
    "num_heads",
    "out_channels",
    "out_features",
)


_SIZES = (int, list)


def shape_plan(original: nn.Module, cut: nn.Module) -> dict[str, dict[str, Any]]:
    """Describe how the shapes of ``cut`` differ from those of ``original``.

    Args:
        original: before the cut.
        cut: the same modules, some with fewer units.

    Returns:
        ``tensors``: name -> shape of each parameter or buffer that differs; ``attributes``: module
            -> attribute -> number, or list of numbers for a shape.

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
            a: _as_json(getattr(module, a))
            for a in _ATTRIBUTES
            if hasattr(module, a) and getattr(module, a) != getattr(modules[name], a)
        }
        if changed:
            attributes[name] = changed
    return {"tensors": tensors, "attributes": attributes}


def resize_(model: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
    """Give a model the shapes of a plan; what changes keeps its first values until weights are
    loaded.

    Raises:
        RecipeError: the plan names parts that the model lacks, other attributes than sizes, or
            larger shapes.
    """
    check_keys(plan, "The recipe's plan of a cut", {"tensors": dict, "attributes": dict}, {})
    modules = dict(model.named_modules())
    for name, changed in plan["attributes"].items():
        check_keys(changed, f"The recipe's cut of {name!r}", {}, dict.fromkeys(_ATTRIBUTES, _SIZES))
        for attribute, value in changed.items():
            old = getattr(modules.get(name), attribute, None)
            if not _is_cut(value, _as_json(old)):
                raise RecipeError(
                    f"The recipe sets {attribute!r} of {name!r} to {value!r}, which no cut does; "
                    "fit again."
                )
            setattr(modules[name], attribute, tuple(value) if isinstance(value, list) else value)
    for name, shape in plan["tensors"].items():
        owner, _, leaf = name.rpartition(".")
        old = getattr(modules.get(owner), leaf, None)
        if not isinstance(old, torch.Tensor) or not _is_cut(shape, list(old.shape)):
            raise RecipeError(
                f"The recipe gives {name!r} the shape {shape}, which no cut does; fit again."
            )
        new = old.detach()[tuple(slice(size) for size in shape)].clone()
        setattr(modules[owner], leaf, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    return model


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_cut(new: Any, old: Any) -> bool:
    """Whether a size, or each of as many sizes, is positive and at most what it was."""
    if isinstance(new, list) and isinstance(old, list):
        return len(new) == len(old) and all(map(_is_cut, new, old))
    return type(new) is int and type(old) is int and 0 < new <= old
