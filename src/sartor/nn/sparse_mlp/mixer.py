"""Blocks that mix tokens and channels through experts.

Source: see :mod:`sartor.nn.sparse_mlp.backbone`. Deviations: the residual path around the whole
    block is this project's reading of a figure that leaves it open.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError, RecipeError
from sartor.core.packages import require
from sartor.nn.sparse_mlp.expert_mlp import ExpertMlp
from sartor.nn.sparse_mlp.top_k_router import TopKRouter, load_balance_loss

__all__ = ["MoELayer", "ReRepresent", "SparseMixerBlock", "aux_loss", "routing_report"]


class _Latest:
    """What the latest forward pass left: the balance loss of training, and the share of units that
    each expert got. A copied model starts without it.
    """

    def __init__(self) -> None:
        self.loss: Tensor | None = None
        self.shares: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Latest:
        return _Latest()

    def __reduce__(self) -> tuple[type[_Latest], tuple[()]]:
        return _Latest, ()


class MoELayer(nn.Module):
    """Mixture of experts along one axis: (B, S, C) -> (B, S, C).

    One expert is a plain MLP without a router.

    Args:
        dim: length of a unit: S if tokens are mixed, C if channels are.
        hidden: width of an expert.
        num_experts: at least 1.
        k: experts of a unit.
        axis: ``token`` mixes tokens, so a unit is one channel over all tokens; ``channel`` mixes
            channels, so a unit is one token.
        capacity_factor: of :class:`~sartor.nn.sparse_mlp.expert_mlp.ExpertMlp`.
        noise_std: of :class:`~sartor.nn.sparse_mlp.top_k_router.TopKRouter`.

    Raises:
        FamilyError: a number is out of range, or there is no such axis.

    Example:
        >>> layer = MoELayer(6, 8, num_experts=2, axis="token")
        >>> layer(torch.zeros(1, 6, 4)).shape
        torch.Size([1, 6, 4])
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        num_experts: int,
        k: int = 1,
        *,
        axis: str = "channel",
        capacity_factor: float | None = None,
        noise_std: float | None = None,
    ) -> None:
        super().__init__()
        if axis not in ("token", "channel"):
            raise FamilyError(f"Experts mix along token or channel, got {axis!r}.")
        self.axis, self.latest = axis, _Latest()
        many = num_experts > 1
        self.router = TopKRouter(dim, num_experts, k, noise_std) if many else None
        self.experts = ExpertMlp(num_experts, dim, hidden, capacity_factor=capacity_factor)

    def forward(self, x: Tensor) -> Tensor:
        """Mix; in training, keep the balance loss for :func:`aux_loss`."""
        rows = x.transpose(1, 2) if self.axis == "token" else x
        mixed = self._mix(rows.flatten(0, 1)).view(rows.shape)
        return mixed.transpose(1, 2) if self.axis == "token" else mixed

    def _mix(self, units: Tensor) -> Tensor:
        if self.router is None:
            one = units.new_ones(units.shape[0], 1)
            outputs: Tensor = self.experts(units, one, torch.zeros_like(one, dtype=torch.int64))
            return outputs
        routing = self.router(units)
        if not torch.compiler.is_compiling():
            experts = routing.logits.shape[-1]
            counts = routing.indices.flatten().bincount(minlength=experts)
            self.latest.shares = counts / routing.indices.numel()
            self.latest.loss = load_balance_loss(routing) if self.training else None
        mixed: Tensor = self.experts(units, routing.weights, routing.indices)
        return mixed


class ReRepresent(nn.Module):
    """Map channels and tokens, (B, S, C) -> (B, S', C'): tokens first if they become fewer, else
    channels first, which takes the fewest operations.

    Args:
        tokens: S.
        channels: C.
        new_tokens: S'.
        new_channels: C'.
    """

    def __init__(self, tokens: int, channels: int, new_tokens: int, new_channels: int) -> None:
        super().__init__()
        self.channels = nn.Linear(channels, new_channels)
        self.tokens = nn.Linear(tokens, new_tokens)
        for linear in (self.channels, self.tokens):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map.

        Raises:
            DataError: there is another number of tokens or of channels.
        """
        if x.shape[1:] != (self.tokens.in_features, self.channels.in_features):
            raise DataError(
                f"This block takes {self.tokens.in_features} tokens of "
                f"{self.channels.in_features} channels, got {x.shape[1]} of {x.shape[2]}; build "
                "the model for this size of images (img_size)."
            )
        if self.tokens.out_features < self.tokens.in_features:
            mapped: Tensor = self.channels(self._map_tokens(x))
            return mapped
        return self._map_tokens(self.channels(x))

    def _map_tokens(self, x: Tensor) -> Tensor:
        mapped: Tensor = self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return mapped


class SparseMixerBlock(nn.Module):
    """Block of Sparse-MLP: half the channels and twice the tokens, experts over tokens, experts
    over
    channels, and back; (B, S, C) -> (B, S, C).

    Args:
        seq_len: tokens S.
        dim: channels C, even.
        tokens_dim: hidden width of the experts over tokens.
        channels_dim: of those over channels.
        token_experts: at least 1; 1 is a plain MLP.
        channel_experts: the same.
        token_k: experts of one channel.
        channel_k: experts of one token.
        drop_path: rate of stochastic depth, in [0, 1).
        capacity_factor: of both layers.

    Raises:
        FamilyError: a number is out of range.

    Example:
        >>> block = SparseMixerBlock(196, 512, 256, 2048, token_experts=4)
        >>> sum(p.numel() for p in block.parameters())
        2276044
    """

    def __init__(
        self,
        seq_len: int,
        dim: int,
        tokens_dim: int,
        channels_dim: int,
        *,
        token_experts: int = 4,
        channel_experts: int = 1,
        token_k: int = 1,
        channel_k: int = 1,
        drop_path: float = 0.0,
        capacity_factor: float | None = None,
    ) -> None:
        super().__init__()
        if dim % 2:
            raise FamilyError(
                f"A sparse block halves its channels, got {dim}; take an even number, such as "
                f"{dim + 1}."
            )
        tokens, channels = 2 * seq_len, dim // 2
        room = {"capacity_factor": capacity_factor}
        self.reduce = ReRepresent(seq_len, dim, tokens, channels)
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp_tokens = MoELayer(tokens, tokens_dim, token_experts, token_k, axis="token", **room)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp_channels = MoELayer(channels, channels_dim, channel_experts, channel_k, **room)
        self.restore = ReRepresent(tokens, channels, seq_len, dim)
        self.drop_path = require("timm.layers").DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        y = self.reduce(x)  # (B, 2 S, C / 2)
        y = y + self.mlp_tokens(self.norm1(y))
        y = y + self.mlp_channels(self.norm2(y))
        mixed: Tensor = x + self.drop_path(self.restore(y))
        return mixed


def aux_loss(model: nn.Module, weight: float = 0.01) -> Tensor:
    """Balance losses of the latest forward pass, to be added to the loss of the task.

    Args:
        model: with at least one layer of several experts, after a forward pass in training mode.
        weight: the factor lambda of the sum over layers.

    Raises:
        RecipeError: there is no such layer, or it has not run in training mode.
    """
    losses = [m.latest.loss for m in _routed(model) if m.latest.loss is not None]
    if not losses:
        raise RecipeError(
            f"{type(model).__name__} has no balance loss; run it once in training mode, with at "
            "least one layer of several experts."
        )
    return weight * torch.stack(losses).sum()


def routing_report(model: nn.Module) -> dict[str, list[float]]:
    """Share of the units of the latest forward pass that each expert got, by layer.

    Example:
        >>> layer = MoELayer(4, 8, num_experts=2)
        >>> outputs = layer(torch.randn(1, 3, 4))
        >>> sum(routing_report(layer)[""])
        1.0
    """
    return {
        name: module.latest.shares.tolist()
        for name, module in model.named_modules()
        if isinstance(module, MoELayer) and module.latest.shares is not None
    }


def _routed(model: nn.Module) -> list[MoELayer]:
    return [m for m in model.modules() if isinstance(m, MoELayer) and m.router is not None]
