"""Layers of a single-path search: attention that holds convolutions, and gated hidden units.

Source: He, Cai, Liu, Pan, Zhang, Tao, Zhuang, "Pruning Self-attentions into Convolutional Layers in
Single Path", TPAMI 2024, arXiv 2111.11802, section 3. Deviations: maps need not be square; any
number of tokens may stand in front of the map, and convolutions pass them as they are; a skipped
layer gives 0 and not, as the official code after the search, its normalised input.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError
from sartor.core.packages import require
from sartor.nn.spvit.bottleneck_conv import BottleneckConv, ConvWeights, conv_weights, patch_map
from sartor.nn.spvit.gates import nested_gates, sample_gates

__all__ = ["KINDS", "NoBranch", "UnifiedAttention", "UnifiedMlp"]

#: what an attention layer can become, cheap to dear
KINDS = ("skip", "conv1x1", "conv3x3", "attention")


class NoBranch(nn.Module):
    """Gives 0, so that of a block only its shortcut stays; or one learned vector for all tokens.

    Args:
        dim: of that vector; ``None`` for 0.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.bias = None if dim is None else nn.Parameter(torch.zeros(dim))

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """What does not depend on ``x``, in its shape."""
        zeros = torch.zeros_like(x)
        return zeros if self.bias is None else zeros + self.bias


class UnifiedAttention(nn.Module):
    """Multi-head attention with gates that choose it, a 3x3 or 1x1 bottleneck, or nothing.

    Takes the calls of timm's ``Attention``. While training, gates are sampled.

    Args:
        dim: D, a multiple of ``num_heads``.
        num_heads: h.
        qkv_bias: whether queries, keys and values have a bias.
        grid_size: rows and columns of the map.
        prefix_tokens: in front of it.
        theta: threshold that gates start with; 1.5 is a probability of 0.82.
        alpha: temperature of the softmax over heads, above 0; small is nearly one head a position.

    Raises:
        FamilyError: ``dim`` is no multiple of ``num_heads``, or a number is outside its range.

    Example:
        >>> layer = UnifiedAttention(8, 2, grid_size=(4, 6), prefix_tokens=1).eval()
        >>> layer(torch.zeros(2, 25, 8)).shape, layer.kind
        (torch.Size([2, 25, 8]), 'attention')
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        grid_size: tuple[int, int],
        qkv_bias: bool = True,
        prefix_tokens: int = 1,
        theta: float = 1.5,
        alpha: float = 0.01,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads or not alpha > 0 or min(grid_size) < 1:
            raise FamilyError(
                "UnifiedAttention takes a dim that is a multiple of num_heads, an alpha above 0 "
                "and "
                f"a map of at least 1 x 1, got {dim}, {num_heads}, {alpha} and {grid_size}."
            )
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.grid_size, self.prefix_tokens, self.alpha = grid_size, prefix_tokens, alpha
        self.qk = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.norm1 = nn.BatchNorm2d(self.head_dim)
        self.norm3 = nn.BatchNorm2d(self.head_dim)
        self.thresholds = nn.Parameter(torch.full((3,), float(theta)))
        self.head_probs = nn.Parameter(torch.ones(num_heads, 9))

    @property
    def kind(self) -> str:
        """What the gates choose, cut at one half: an entry of ``KINDS``."""
        return KINDS[int((torch.sigmoid(self.thresholds) > 0.5).long().cumprod(0).sum())]

    @torch.no_grad()
    def choose(self, kind: str) -> None:
        """Set the gates so that they choose ``kind``."""
        depth = KINDS.index(kind)
        signs = torch.tensor([1.0 if i < depth else -1.0 for i in range(3)])
        self.thresholds.copy_(signs.to(self.thresholds) * 1.5)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens (B, P + H * W, D) -> tokens of that shape.

        Raises:
            DataError: another number of tokens, or a mask.
        """
        if attn_mask is not None or is_causal:
            raise DataError("A single-path search knows no mask and was given one; leave it out.")
        if not self.training:
            return self.branch(x, self.kind)
        gates = nested_gates(sample_gates(self.thresholds, training=True))
        one, two, three = gates
        mixed = three * self.branch(x, "attention")
        mixed = mixed + two * (1 - three) * self.branch(x, "conv3x3")
        return mixed + one * (1 - two) * (1 - three) * self.branch(x, "conv1x1")

    def branch(self, x: Tensor, kind: str) -> Tensor:
        """What one operation gives."""
        if kind == "attention":
            return self._attention(x)
        if kind == "skip":
            return torch.zeros_like(x)
        side, norm = (1, self.norm1) if kind == "conv1x1" else (3, self.norm3)
        weights = self.conv_weights(side)
        maps = patch_map(x, self.grid_size, self.prefix_tokens)
        inner = F.conv2d(maps, weights.inner, weights.inner_bias, padding=side // 2)
        hidden = F.relu(norm(inner)).flatten(2).transpose(1, 2)  # (B, H * W, e)
        mixed = F.linear(hidden, weights.outer, self.proj.bias)
        return torch.cat((x[:, : self.prefix_tokens], mixed), dim=1)

    def conv_weights(self, kernel_size: int) -> ConvWeights:
        """Of the convolution that lies inside the value and output weights."""
        return conv_weights(
            self.v.weight,
            self.v.bias,
            self.proj.weight,
            self.head_probs,
            kernel_size=kernel_size,
            alpha=self.alpha,
        )

    def _attention(self, x: Tensor) -> Tensor:
        heads = (self.num_heads, self.head_dim)
        q, k = self.qk(x).unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)  # (B, h, N, e) each
        v = self.v(x).unflatten(-1, heads).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected

    @classmethod
    @torch.no_grad()
    def from_attention(
        cls, attention: Any, grid_size: tuple[int, int], prefix_tokens: int, **kwargs: float
    ) -> UnifiedAttention:
        """Make one of a timm attention's weights, which is left as it is."""
        dim, bias = attention.proj.out_features, attention.qkv.bias is not None
        made = cls(
            dim,
            attention.num_heads,
            grid_size=grid_size,
            qkv_bias=bias,
            prefix_tokens=prefix_tokens,
            **kwargs,
        ).to(attention.qkv.weight)
        for name in ("weight", "bias") if bias else ("weight",):
            rows = getattr(attention.qkv, name)
            getattr(made.qk, name).copy_(rows[: 2 * dim])
            getattr(made.v, name).copy_(rows[2 * dim :])
        made.proj.weight.copy_(attention.proj.weight)
        made.proj.bias.copy_(0 if attention.proj.bias is None else attention.proj.bias)
        return made

    @torch.no_grad()
    def compact(self, kind: str) -> nn.Module:
        """A plain layer of one kind with the weights of now: nothing of the others is left."""
        if kind == "skip":
            return NoBranch()
        if kind == "attention":
            made: nn.Module = (
                require("timm.layers")
                .Attention(self.dim, self.num_heads, qkv_bias=self.qk.bias is not None)
                .to(self.qk.weight)
            )
            names = ("weight",) if self.qk.bias is None else ("weight", "bias")
            for name in names:
                rows = torch.cat((getattr(self.qk, name), getattr(self.v, name)))
                getattr(made.qkv, name).copy_(rows)
            made.proj.load_state_dict(self.proj.state_dict())
            return made
        side, norm = (1, self.norm1) if kind == "conv1x1" else (3, self.norm3)
        weights = self.conv_weights(side)
        conv = BottleneckConv(
            self.dim, self.head_dim, side, self.grid_size, prefix_tokens=self.prefix_tokens
        ).to(self.v.weight)
        conv.conv.weight.copy_(weights.inner)
        conv.conv.bias.copy_(weights.inner_bias)  # type: ignore[union-attr]
        conv.norm.load_state_dict(norm.state_dict())
        conv.proj.weight.copy_(weights.outer)
        conv.proj.bias.copy_(self.proj.bias)
        return conv


class UnifiedMlp(nn.Module):
    """A feed-forward layer with a gate for each hidden unit; while training, gates are sampled.

    Args:
        mlp: timm's, whose layers are taken over.
        theta: threshold that gates start with.

    Example:
        >>> from timm.layers import Mlp
        >>> UnifiedMlp(Mlp(4, 16)).kept.numel()
        16
    """

    def __init__(self, mlp: Any, *, theta: float = 1.5) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = mlp.fc1, mlp.act, mlp.fc2
        width = mlp.fc1.out_features
        self.thresholds = nn.Parameter(mlp.fc1.weight.new_full((width,), float(theta)))

    @property
    def kept(self) -> Tensor:
        """Indices of the units whose gates are open, cut at one half."""
        return (torch.sigmoid(self.thresholds) > 0.5).nonzero().flatten()

    @torch.no_grad()
    def choose(self, units: list[int]) -> None:
        """Open the gates of these units alone."""
        self.thresholds.fill_(-1.5)
        self.thresholds[units] = 1.5

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> tokens of that shape."""
        gates = sample_gates(self.thresholds, training=self.training)
        mixed: Tensor = self.fc2(self.act(self.fc1(x)) * gates)
        return mixed

    @torch.no_grad()
    def compact(self, units: list[int]) -> nn.Module:
        """A timm ``Mlp`` of these units alone; without units, the bias of the last layer alone."""
        fc1, fc2 = self.fc1, self.fc2
        if not units:
            constant = NoBranch(fc2.out_features).to(fc1.weight)
            constant.bias.copy_(fc2.bias)  # type: ignore[union-attr]
            return constant
        made: Any = require("timm.layers").Mlp(fc1.in_features, len(units), fc2.out_features)
        made = made.to(fc1.weight)
        made.act = self.act
        made.fc1.weight.copy_(fc1.weight[units])
        made.fc1.bias.copy_(fc1.bias[units])
        made.fc2.weight.copy_(fc2.weight[:, units])
        made.fc2.bias.copy_(fc2.bias)
        compact: nn.Module = made
        return compact
