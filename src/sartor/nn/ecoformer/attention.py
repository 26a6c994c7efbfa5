"""EcoFormer's attention: linear in the number of tokens, on binary codes of queries and keys.

Source: Liu, Pan, He, Cai, Zhuang, "EcoFormer: Energy-Saving Attention with Linear Complexity",
NeurIPS 2022, arXiv 2209.09004, section 3.2; names of the official weights from ziplab/EcoFormer.
The official code adds the offset times a token's own value to the numerator, and N times the offset
to the denominator, so that weights do not sum to 1; here the offset weighs all values alike, as the
formula says, and ``bias="self"`` is the official code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError
from sartor.nn.ecoformer.hash_function import KernelHash

__all__ = ["EcoAttention", "code_attention"]

_BIASES = ("mean", "self")


def code_attention(codes: Tensor, v: Tensor, *, bias: str = "mean") -> Tensor:
    """Mean of the values, weighted by <h_i, h_j> + b + 1, at a cost linear in the tokens.

    Sums are made in float32 at least.

    Args:
        codes: h, (..., N, b) in {-1, +1}.
        v: values (..., N, d).
        bias: ``mean``; or ``self``, where the offset b + 1 weighs a token's own value alone.

    Returns:
        (..., N, d), of the values' type.

    Example:
        >>> code_attention(torch.ones(3, 2), torch.tensor([[0.0], [3.0], [6.0]])).tolist()
        [[3.0], [3.0], [3.0]]
    """
    wide = torch.promote_types(v.dtype, torch.float32)
    h, values, beta = codes.to(wide), v.to(wide), codes.shape[-1] + 1
    context = h.transpose(-2, -1) @ values  # (..., b, d)
    offset = values if bias == "self" else values.sum(dim=-2, keepdim=True)
    above = h @ context + beta * offset  # (..., N, d)
    below = h @ h.sum(dim=-2).unsqueeze(-1) + beta * v.shape[-2]  # (..., N, 1)
    return (above / below).to(v.dtype)


class EcoAttention(nn.Module):
    """Attention over tokens (B, N, C); takes the calls of timm's and PVTv2's attention.

    Args:
        dim: C, a multiple of ``num_heads``.
        num_heads: H.
        qkv_bias: whether codes' inputs and values have a bias.
        num_bits: b, signs a code.
        num_anchors: m, of the hash.
        bias: ``mean`` or, as the official code, ``self``.
        proj_drop: dropout of the outputs.
        random_hash: whether the hash starts with random functions, and not unfitted.

    Raises:
        FamilyError: ``dim`` is no multiple of ``num_heads``, or a setting is outside its range.

    Example:
        >>> layer = EcoAttention(32, num_heads=2, random_hash=True)
        >>> layer(torch.randn(2, 49, 32)).shape
        torch.Size([2, 49, 32])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        num_bits: int = 16,
        num_anchors: int = 25,
        bias: str = "mean",
        proj_drop: float = 0.0,
        random_hash: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise FamilyError(
                f"EcoAttention's dim must be a multiple of its num_heads, got {dim} and "
                f"{num_heads}."
            )
        if bias not in _BIASES:
            raise FamilyError(f"EcoAttention's bias is mean or self, got {bias!r}.")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.bias = bias
        self.qk = nn.Linear(dim, dim, bias=qkv_bias)
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.hash = KernelHash(num_heads, self.head_dim, num_bits, num_anchors, random=random_hash)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def hash_inputs(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) -> what is hashed, of norm 1 (B, H, N, d)."""
        return F.normalize(self._heads(self.qk(x)), dim=-1, eps=1e-6)

    def forward(
        self,
        x: Tensor,
        size: Any = None,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Mix tokens.

        Args:
            x: (B, N, C).
            size: of their map, which plays no part.
            attn_mask: must be ``None``.
            is_causal: must be false.

        Returns:
            (B, N, C).

        Raises:
            DataError: there is a mask.
            TrainingError: the hash is not fitted.
        """
        if attn_mask is not None or is_causal:
            raise DataError("EcoAttention attends without a mask and was given one; leave it out.")
        codes, v, kind = self.hash(self.hash_inputs(x)), self._heads(self.v(x)), x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                mixed = code_attention(codes, v, bias=self.bias)
        else:
            mixed = code_attention(codes, v, bias=self.bias)
        projected: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return projected

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
