"""A stitching layer that only learns a correction of low rank to its least-squares map.

Source: Pan, Liu, He, Cai, Zhuang, 2024, arXiv 2307.00154, section 3.3; Hu et al., LoRA, 2021,
    arXiv 2106.09685. Deviation: the official code writes the merged weight into checkpoints that
    are made in eval mode; here a state dict always has the frozen weight and the factors apart.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.stitch.folding import Foldable
from sartor.stitch.least_squares import least_squares_affine

__all__ = ["LowRankStitch"]


class LowRankStitch(Foldable):
    """y = W0 x + b + (alpha / rank) B A x: W0 is frozen, b, A and B are trained.

    B starts at zero, so the layer starts as its least-squares map. In eval mode the correction is
    merged into the weight and the layer costs what a plain affine map costs.

    Args:
        in_features: channels C_in of what leaves the front anchor.
        out_features: channels C_out of what the end anchor takes.
        rank: of the correction, at least 1; from min(C_in, C_out) on it saves nothing, and a
            warning says so.
        alpha: strength of the correction.
        device: where its parameters are.
        dtype: of its parameters.

    Raises:
        FamilyError: the rank is below 1.

    Example:
        >>> layer = LowRankStitch(3, 5, rank=2)
        >>> layer(torch.zeros(4, 3)).shape, layer.scaling
        (torch.Size([4, 5]), 0.5)
        >>> [name for name, p in layer.named_parameters() if p.requires_grad]
        ['lora_A', 'lora_B', 'base_layer.bias']
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float = 1.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise FamilyError(f"A low-rank layer needs a rank of at least 1, got {rank}.")
        if rank >= min(in_features, out_features):
            warnings.warn(
                f"A correction of rank {rank} is as large as a map between {in_features} and "
                f"{out_features} channels; take a rank below {min(in_features, out_features)}, or "
                "0 for a layer that is trained whole.",
                stacklevel=2,
            )
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.scaling = alpha / rank
        self.base_layer = nn.Linear(in_features, out_features, **where)
        self.base_layer.weight.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features, **where))  # (r, C_in)
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, **where))  # (C_out, r)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.frozen: Tensor | None
        self.register_buffer("frozen", None, persistent=False)  # W0, while merged
        self.register_state_dict_post_hook(_store_unmerged)
        self.register_load_state_dict_pre_hook(_unmerge_before_loading)
        self.register_load_state_dict_post_hook(_merge_after_loading)

    @property
    def weight(self) -> Tensor:
        """The frozen weight W0 (C_out, C_in), merged or not; write to it unmerged."""
        return self.base_layer.weight if self.frozen is None else self.frozen

    @property
    def bias(self) -> Tensor:
        """The trained bias (C_out,)."""
        return self.base_layer.bias

    def init_least_squares(self, x: Tensor, y: Tensor, ridge: float = 0.0) -> None:
        """Set W0 and b to the least-squares map from ``x`` to ``y``, and the correction to zero.

        Args:
            x: features (..., C_in).
            y: features (..., C_out).
            ridge: strength of a penalty on the weight, at least 0.
        """
        weight, bias = least_squares_affine(x, y, ridge)
        self.unmerge()
        with torch.no_grad():
            self.base_layer.weight.copy_(weight)
            self.base_layer.bias.copy_(bias)
            self.lora_B.zero_()
        self.train(self.training)

    def merge(self) -> None:
        """Put the correction, as it is now, into the weight."""
        self.unmerge()
        with torch.inference_mode(False), torch.no_grad():
            self.frozen = self.base_layer.weight.detach().clone()
            self.base_layer.weight.copy_(self._merged())

    def unmerge(self) -> None:
        """Put W0 back, bit for bit."""
        if self.frozen is not None:
            with torch.inference_mode(False), torch.no_grad():
                self.base_layer.weight.copy_(self.frozen)
            self.frozen = None

    def train(self, mode: bool = True) -> LowRankStitch:
        """Set the mode; in eval mode the correction is merged."""
        super().train(mode)
        if mode:
            self.unmerge()
        else:
            self.merge()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., C_in) -> (..., C_out)."""
        if self.training:  # the mode may have been set without train()
            self.unmerge()
        y: Tensor = self.base_layer(x)  # (..., C_out)
        if self.frozen is not None:
            return y
        return y + self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def fold(self, index: int) -> nn.Module:
        """The affine map with the same outputs as in eval mode, in every configuration."""
        weight, bias = self._merged(), self.base_layer.bias
        plain = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
        plain = plain.to(weight.dtype)
        plain.weight = nn.Parameter(weight.detach().clone())
        plain.bias = nn.Parameter(bias.detach().clone())
        return plain.train(self.training)

    def _merged(self) -> Tensor:
        return self.weight + self.scaling * (self.lora_B @ self.lora_A)  # (C_out, C_in)


def _store_unmerged(
    layer: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]
) -> None:
    assert isinstance(layer, LowRankStitch)
    if layer.frozen is not None:
        state[f"{prefix}base_layer.weight"] = layer.frozen


def _unmerge_before_loading(layer: nn.Module, *_: Any) -> None:
    assert isinstance(layer, LowRankStitch)
    layer.unmerge()


def _merge_after_loading(layer: nn.Module, _keys: Any) -> None:
    assert isinstance(layer, LowRankStitch)
    layer.train(layer.training)
