"""What CAME refuses: illegal settings, parameters whose means would be wrong, states of others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sartor.core.errors import ArtifactError, RecipeError

__all__ = ["check_group", "check_param", "check_state"]


def check_group(group: Mapping[str, Any]) -> None:
    """Refuse settings that CAME cannot work with.

    Raises:
        RecipeError: one is illegal.
    """
    lr, decay, threshold = group["lr"], group["weight_decay"], group["clip_threshold"]
    if not _number(lr) or lr <= 0:
        raise RecipeError(
            f"CAME needs a learning rate above 0, got {lr!r}; begin with a tenth of AdamW's."
        )
    _check_numbers("betas", group["betas"], 3, "in [0, 1)", lambda beta: 0 <= beta < 1)
    _check_numbers("eps", group["eps"], 2, "above 0", lambda eps: eps > 0)
    if not _number(threshold) or threshold <= 0:
        raise RecipeError(f"CAME's clip_threshold must be above 0, got {threshold!r}.")
    if not _number(decay) or decay < 0:
        raise RecipeError(f"CAME's weight_decay must be at least 0, got {decay!r}.")
    if group["foreach"] and group["fused"]:
        raise RecipeError("CAME works with foreach or with fused, got both; choose one.")


def _check_numbers(name: str, values: Any, count: int, range_: str, legal: Any) -> None:
    numbers = isinstance(values, Sequence) and len(values) == count and all(map(_number, values))
    if not numbers or not all(map(legal, values)):
        raise RecipeError(f"CAME's {name} are {count} numbers {range_}, got {values!r}.")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def check_param(param: Tensor) -> None:
    """Refuse a parameter whose rows and columns are not what they seem.

    Raises:
        RecipeError: it is complex, or one part of a sharded parameter.
    """
    if param.is_complex():
        raise RecipeError(
            "CAME takes real parameters, got a complex one; give it torch.view_as_real of it."
        )
    if hasattr(param, "placements") or getattr(param, "_is_flat_param", False):
        raise RecipeError(
            "CAME averages whole rows and columns, got a sharded parameter, of which one process "
            "sees a part; use DistributedDataParallel, which leaves parameters whole."
        )


def check_state(entries: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse the saved state of a parameter that is not CAME's for it.

    Args:
        entries: as saved.
        shapes: name -> shape of what CAME keeps for the parameter.

    Raises:
        ArtifactError: a part is missing or has another shape.
    """
    for key, shape in shapes.items():
        found = entries.get(key)
        if not isinstance(found, Tensor) or tuple(found.shape) != tuple(shape):
            given = tuple(found.shape) if isinstance(found, Tensor) else "nothing"
            raise ArtifactError(
                f"The saved state has {given} as {key} where CAME keeps {tuple(shape)}; load one "
                "that CAME saved for the same parameters with the same factor_conv."
            )
