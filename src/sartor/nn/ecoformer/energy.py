"""Multiplications and additions of a network, and the energy that a 45 nm chip needs for them.

Source: Liu, Pan, He, Cai, Zhuang, "EcoFormer: Energy-Saving Attention with Linear Complexity",
NeurIPS 2022, arXiv 2209.09004; energies of one operation from Horowitz, ISSCC 2014. A model of
energy, not a measurement: memory traffic is left out, and no CPU gets faster by it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, RecipeError
from sartor.core.modes import eval_mode
from sartor.core.packages import require
from sartor.nn.ecoformer.attention import EcoAttention

__all__ = ["Energy", "EnergyTable", "attention_energy", "eco_operations", "softmax_operations"]


@dataclass(frozen=True, kw_only=True)
class EnergyTable:
    """Picojoules of one operation; the defaults are float32 at 45 nm.

    Attributes:
        mul: of a multiplication, at least 0.
        add: of an addition, at least 0.
    """

    mul: float = 3.7
    add: float = 0.9

    def __post_init__(self) -> None:
        if not (self.mul >= 0 and self.add >= 0):
            raise RecipeError(
                f"Energies must be at least 0, got mul={self.mul} and add={self.add}."
            )


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Operations of one input, and their energy in picojoules."""

    mul: int
    add: int
    pj: float


def softmax_operations(tokens: int, heads: int, head_dim: int) -> tuple[int, int]:
    """Multiplications and additions of softmax attention, without its projections.

    Example:
        >>> softmax_operations(49, 8, 32)
        (1248520, 1229312)
    """
    products = 2 * tokens**2 * heads * head_dim
    return products + heads * tokens**2, products


def eco_operations(
    tokens: int, heads: int, head_dim: int, bits: int = 16, anchors: int = 25
) -> tuple[int, int]:
    """Multiplications and additions of EcoFormer's attention, without its projections.

    Example:
        >>> eco_operations(196, 5, 32)[0] // 196 == eco_operations(49, 5, 32)[0] // 49
        True
    """
    mixed = anchors * bits
    mul = heads * tokens * (2 * anchors + mixed + bits + 1 + head_dim)
    add = (
        heads
        * tokens
        * (2 * anchors * head_dim + mixed + 2 * bits + 2 * bits * head_dim + head_dim)
    )
    return mul, add


@torch.no_grad()
def attention_energy(
    model: nn.Module, input_size: tuple[int, ...], *, table: EnergyTable | None = None
) -> Energy:
    """Count the operations of one input, and their energy.

    Linear layers and convolutions count one multiplication and one addition for each product, and
    both for each bias; a LayerNorm two of each for each element; attention (timm's plain and
    PVTv2's, and EcoAttention) as the paper says.

    Args:
        model: or a layer; on any device, ``meta`` included.
        input_size: of one input without its batch, (C, H, W) or (N, C).
        table: energies of one operation.

    Raises:
        DataError: nothing in the model could be counted.

    Example:
        >>> attention_energy(nn.Linear(4, 2), (4,)).mul
        10
    """
    counts = [0, 0]

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for index, number in enumerate(_operations(module, inputs[0], output)):
            counts[index] += number

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    parameter = next(model.parameters(), torch.zeros(()))
    try:
        with eval_mode(model):
            model(torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    if not any(counts):
        raise DataError(f"Nothing in {type(model).__name__} multiplies; give a network.")
    table = table or EnergyTable()
    mul, add = counts
    return Energy(mul=mul, add=add, pj=mul * table.mul + add * table.add)


def _operations(module: nn.Module, x: Tensor, output: Any) -> tuple[int, int]:
    """Of a module alone, without those inside it."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        products = output.numel() * module.weight[0].numel()
        both = products + (0 if module.bias is None else output.numel())
        return both, both
    if isinstance(module, nn.LayerNorm):
        return 2 * output.numel(), 2 * output.numel()
    if isinstance(module, EcoAttention):
        hashes = module.hash
        return eco_operations(
            x.shape[1], module.num_heads, module.head_dim, hashes.num_bits, hashes.num_anchors
        )
    if isinstance(module, _softmax_kinds()):
        return softmax_operations(x.shape[1], module.num_heads, module.head_dim)
    return 0, 0


@functools.cache
def _softmax_kinds() -> tuple[type[Any], ...]:
    return require("timm.layers").Attention, require("timm.models.pvt_v2").Attention
