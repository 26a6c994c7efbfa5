"""What CAME keeps for a parameter, and how many bytes that is beside other optimisers.

Source: Yang Luo et al., ACL 2023, arXiv 2307.02047; the formulas of the other optimisers are those
of torch 2.15, transformers 5.23 and torchao 0.18.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import RecipeError, nearest
from sartor.train.came.checks import check_state
from sartor.train.came.update import factored_shape

__all__ = [
    "MATRIX_STATE",
    "VECTOR_STATE",
    "empty_state",
    "optimizer_state_bytes",
    "saved_states",
    "state_dtype",
    "state_shapes",
]

#: the names that the released code uses, in the order in which the update takes them
MATRIX_STATE = (
    "exp_avg",
    "exp_avg_sq_row",
    "exp_avg_sq_col",
    "exp_avg_res_row",
    "exp_avg_res_col",
)
VECTOR_STATE = ("exp_avg", "exp_avg_sq")
#: of torchao's 8-bit AdamW: smaller tensors stay in single precision; values that share a scale;
#: bytes of the two tables of 256 levels that each tensor has
_QUANTIZED_FROM, _BLOCK, _LEVELS = 4096, 256, 2 * 256 * 4


def state_shapes(shape: Sequence[int], *, factor_conv: bool = True) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what CAME keeps for a parameter.

    Example:
        >>> state_shapes((4, 3))["exp_avg_res_col"]
        (3,)
    """
    factored, whole = factored_shape(shape, factor_conv=factor_conv), tuple(shape)
    if not factored:
        return dict(zip(VECTOR_STATE, (whole, whole), strict=True))
    row, col = factored[:-1], (*factored[:-2], factored[-1])
    return dict(zip(MATRIX_STATE, (whole, row, col, row, col), strict=True))


def state_dtype(param: Tensor) -> torch.dtype:
    """Single precision for half precision, otherwise that of the parameter."""
    return torch.float32 if param.dtype.itemsize < 4 else param.dtype


def empty_state(param: Tensor, *, factor_conv: bool = True) -> dict[str, Tensor]:
    """Zeros for a parameter that has not been stepped yet."""
    shapes = state_shapes(param.shape, factor_conv=factor_conv)
    dtype, device = state_dtype(param), param.device
    return {key: torch.zeros(shape, dtype=dtype, device=device) for key, shape in shapes.items()}


def saved_states(
    groups: Iterable[Mapping[str, Any]], state_dict: Mapping[str, Any]
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Each parameter with the state that was saved for it, checked, in the state's precision."""
    for group, saved in zip(groups, state_dict["param_groups"], strict=False):
        for param, index in zip(group["params"], saved["params"], strict=False):
            if index not in state_dict["state"]:
                continue
            entries = state_dict["state"][index]
            shapes = state_shapes(
                param.shape, factor_conv=saved.get("factor_conv", group["factor_conv"])
            )
            check_state(entries, shapes)
            kept = {
                key: entries[key].to(param.device, state_dtype(param), copy=True) for key in shapes
            }
            yield param, {"step": int(entries["step"]), **kept}


def optimizer_state_bytes(model: nn.Module, name: str, *, factor_conv: bool = True) -> int:
    """Bytes of state that an optimiser will keep for a model, before there is any.

    Step counters, of a few bytes for each tensor, are left out.

    Args:
        model: parameters that need no gradient count nothing.
        name: ``came``, ``adamw`` (torch), ``adamw8bit`` (torchao), ``adafactor`` (torch, which
            keeps no momentum) or ``adafactor_momentum`` (transformers, with ``beta1``).
        factor_conv: of CAME.

    Raises:
        RecipeError: the name is none of these.

    Example:
        >>> layer = nn.Linear(100, 50, bias=False)
        >>> optimizer_state_bytes(layer, "came"), optimizer_state_bytes(layer, "adamw")
        (21200, 40000)
    """
    if name not in _BYTES:
        raise RecipeError(f"No state is known of the optimiser {name!r}; {nearest(name, _BYTES)}")
    trained = [p for p in model.parameters() if p.requires_grad]
    if name == "came":
        return sum(_came(param, factor_conv) for param in trained)
    return sum(_BYTES[name](param) for param in trained)


def _came(param: Tensor, factor_conv: bool = True) -> int:
    shapes = state_shapes(param.shape, factor_conv=factor_conv).values()
    return sum(math.prod(shape) for shape in shapes) * state_dtype(param).itemsize


def _adamw(param: Tensor) -> int:
    return 2 * param.numel() * param.itemsize


def _adamw8bit(param: Tensor) -> int:
    count = param.numel()
    if count < _QUANTIZED_FROM or count % _BLOCK:
        return _adamw(param)
    return 2 * (count + count // _BLOCK * 4) + _LEVELS


def _adafactor(param: Tensor) -> int:
    """Second moments over the last two axes of any tensor."""
    row, col = param.shape[:-1], (*param.shape[:-2], *param.shape[-1:])
    count = math.prod(row) + math.prod(col) if param.ndim > 1 else param.numel()
    return count * param.itemsize


def _adafactor_momentum(param: Tensor) -> int:
    """In single precision, whatever the parameter has."""
    return (_adafactor(param) // param.itemsize + param.numel()) * 4


_BYTES: dict[str, Callable[[Tensor], int]] = {
    "came": _came,
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "adafactor_momentum": _adafactor_momentum,
}
