"""Blocks that are several layers of one network: own modules, shared parameters, small adapters.

Source: Hao et al., ScaleNet, 2025, arXiv 2510.18431 (see ``scalenet``). Deviation: an instance is
not a wrapper around one shared module but a copy of it whose parameters are the very same tensors.
So what belongs to a layer and not to its weights (stochastic depth, buffers, hooks, the number
under which a decoder layer keeps its keys and values) is its own, whatever the block's class.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = [
    "AdaptedMlp",
    "LoraLinear",
    "ParallelAdapter",
    "check_tied",
    "tie_",
    "tied_copy",
    "tied_names",
]


class ParallelAdapter(nn.Module):
    """Bottleneck beside an MLP: ``scale * (U relu(D h + d0) + u0)``; zero until it is trained.

    It has 2 * dim * rank + rank + dim parameters.

    Args:
        dim: width of the features.
        rank: width of the bottleneck, at least 1.
        scale: factor of the output; 1, or 0.1 for a large rank with a high learning rate.
        device: of the parameters.
        dtype: of the parameters.

    Example:
        >>> sum(p.numel() for p in ParallelAdapter(24, 4).parameters())
        220
    """

    def __init__(
        self,
        dim: int,
        rank: int,
        scale: float = 1.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(dim, rank, device=device, dtype=dtype)
        self.act = nn.ReLU()
        self.up = nn.Linear(rank, dim, device=device, dtype=dtype)
        nn.init.kaiming_uniform_(self.down.weight)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., C) -> what the MLP's output is to be corrected by (..., C)."""
        corrected: Tensor = self.scale * self.up(self.act(self.down(features)))
        return corrected


class AdaptedMlp(nn.Module):
    """An MLP with an adapter beside it: both read the same features, their outputs add up."""

    def __init__(self, base: nn.Module, adapter: ParallelAdapter) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., C) -> (..., C)."""
        adapted: Tensor = self.base(features) + self.adapter(features)
        return adapted


class LoraLinear(nn.Module):
    """A linear layer plus a low-rank update of its own: ``W x + b + scale * B A x``; B starts at
    zero.

    Args:
        base: the layer, whose parameters may be shared.
        rank: of the update, at least 1.
        scale: factor of the update (``alpha / rank`` of LoRA).
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.base, self.scale = base, scale
        self.lora_a = nn.Linear(base.in_features, rank, bias=False, **where)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False, **where)
        nn.init.kaiming_uniform_(self.lora_a.weight)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., in) -> (..., out)."""
        updated: Tensor = self.base(features) + self.scale * self.lora_b(self.lora_a(features))
        return updated


def tied_copy(block: nn.Module) -> nn.Module:
    """Copy a block's modules and buffers, but not its parameters: they stay the same tensors.

    Example:
        >>> block = nn.Linear(4, 4)
        >>> copied = tied_copy(block)
        >>> copied is block, copied.weight is block.weight
        (False, True)
    """
    kept: dict[int, Any] = {id(p): p for p in block.parameters()}
    # of transformers: one for the whole model, where the choice of the attention kernel is written
    configs = [m.config for m in block.modules() if hasattr(m, "config")]
    return copy.deepcopy(block, kept | {id(config): config for config in configs})


def tied_names(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The names under which each shared parameter of a model is found, where they are several.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> tied_names(nn.Sequential(layer, tied_copy(layer)))
        (('0.weight', '1.weight'), ('0.bias', '1.bias'))
    """
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return tuple(tuple(group) for group in names.values() if len(group) > 1)


def check_tied(model: nn.Module, names: Iterable[tuple[str, ...]]) -> None:
    """Make sure that parameters are still shared, as some wrappers and quantisers copy them.

    Args:
        model: after whatever was done to it.
        names: what :func:`tied_names` gave before.

    Raises:
        FamilyError: names the first parameter that is no longer shared.
    """
    found = _parameters(model)
    for first, *others in names:
        for name in others:
            if found.get(name) is not found.get(first) or name not in found:
                raise FamilyError(
                    f"The parameters {first!r} and {name!r} are no longer one tensor; call tie_ "
                    "before training goes on, or leave out the step that copied them."
                )


def tie_(model: nn.Module, names: Iterable[tuple[str, ...]]) -> None:
    """Share parameters again: each group's first one takes the place of the others.

    Args:
        model: is changed in place; of a group, the values of all but the first are dropped.
        names: what :func:`tied_names` gave for the shared model.

    Raises:
        FamilyError: the model has no parameter of a name.
    """
    found = _parameters(model)
    for group in names:
        missing = [name for name in group if name not in found]
        if missing:
            raise FamilyError(
                f"The model has no parameter {missing[0]!r} to share; give the names that "
                "tied_names found in a model of the same structure."
            )
        for name in group[1:]:
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._parameters[leaf] = found[group[0]]


def _parameters(model: nn.Module) -> Mapping[str, nn.Parameter]:
    return dict(model.named_parameters(remove_duplicate=False))
