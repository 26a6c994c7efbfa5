"""HiLo attention: some heads look within small windows, the others at a pooled map.

Source: Pan, Cai, Zhuang, "Fast Vision Transformers with HiLo Attention", NeurIPS 2022, arXiv
2205.13213, section 3. As in the official code there is no output projection over all channels: each
group of heads has its own. Deviations: both groups use torch's fused attention unless
``fused=False``; the dropout on attention weights, an argument that the official layer never
applies, is left out; maps whose sides are no multiples of the window are padded as in the official
code for dense prediction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError

__all__ = ["HiLoAttention", "attend", "hilo_heads", "join_windows", "split_windows"]


def hilo_heads(num_heads: int, alpha: float, window_size: int) -> tuple[int, int]:
    """How many heads look within windows, and how many at the pooled map.

    Args:
        num_heads: of the layer.
        alpha: share of the heads that look at the pooled map, in [0, 1]; ``int(alpha * num_heads)``
            do, cut off and not rounded, as in the official code.
        window_size: a window of 1 pools nothing, so all heads look at the whole map.

    Returns:
        Heads of the high and of the low frequencies.

    Raises:
        FamilyError: a number is outside its range.

    Example:
        >>> hilo_heads(12, 0.9, 2)
        (2, 10)
    """
    if num_heads < 1 or window_size < 1 or not 0 <= alpha <= 1:
        raise FamilyError(
            "HiLo takes at least one head, a window of at least 1 and an alpha in [0, 1], got "
            f"{num_heads}, {window_size} and {alpha}."
        )
    low = num_heads if window_size == 1 else int(alpha * num_heads)
    return num_heads - low, low


def split_windows(x: Tensor, size: int) -> Tensor:
    """Cut a map (B, H, W, C) into windows (B, H / size, W / size, size * size, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c).transpose(2, 3)
    return x.reshape(b, h // size, w // size, size * size, c)


def join_windows(x: Tensor, size: int) -> Tensor:
    """Put windows (B, h, w, size * size, C) back into a map (B, h * size, w * size, C)."""
    b, h, w, _, c = x.shape
    x = x.view(b, h, w, size, size, c).transpose(2, 3)
    return x.reshape(b, h * size, w * size, c)


def attend(q: Tensor, k: Tensor, v: Tensor, *, fused: bool) -> Tensor:
    """Attention of q (..., N, d) to k and v (..., M, d), scaled by d^-0.5 -> (..., N, d)."""
    if fused:
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5  # (..., N, M)
    return scores.softmax(dim=-1) @ v


class HiLoAttention(nn.Module):
    """Multi-head attention over a map, made of linear layers, average pooling and products.

    Args:
        dim: channels C, a multiple of ``num_heads``.
        num_heads: heads, each of ``dim / num_heads`` channels.
        qkv_bias: whether queries, keys and values have a bias.
        window_size: side of a window and of a pooling cell; 1 is plain multi-head attention.
        alpha: share of the heads that look at the pooled map, in [0, 1].
        proj_drop: dropout of the outputs.
        fused: whether torch's fused attention is used; the numbers are the same.

    Raises:
        FamilyError: ``dim`` is no multiple of ``num_heads``, or a number is outside its range.

    Example:
        >>> layer = HiLoAttention(64, num_heads=4)
        >>> layer(torch.zeros(2, 14, 14, 64)).shape
        torch.Size([2, 14, 14, 64])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = False,
        window_size: int = 2,
        alpha: float = 0.5,
        proj_drop: float = 0.0,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.hi_heads, self.lo_heads = hilo_heads(num_heads, alpha, window_size)
        if dim % num_heads:
            raise FamilyError(
                f"HiLo's dim must be a multiple of its num_heads, got {dim} and {num_heads}."
            )
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.window_size, self.fused = window_size, fused
        self.hi_dim, self.lo_dim = self.hi_heads * self.head_dim, self.lo_heads * self.head_dim
        if self.hi_heads:
            self.hi_qkv = nn.Linear(dim, 3 * self.hi_dim, bias=qkv_bias)
            self.hi_proj = nn.Linear(self.hi_dim, self.hi_dim)
        if self.lo_heads:
            self.lo_q = nn.Linear(dim, self.lo_dim, bias=qkv_bias)
            self.lo_kv = nn.Linear(dim, 2 * self.lo_dim, bias=qkv_bias)
            self.lo_proj = nn.Linear(self.lo_dim, self.lo_dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def hi_fi(self, x: Tensor) -> Tensor:
        """Attention of all tokens of a window to each other: (B, n, C) -> (B, n, hi_dim)."""
        qkv = self.hi_qkv(x).unflatten(-1, (3, self.hi_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, n, d) each
        mixed = attend(q, k, v, fused=self.fused).transpose(1, 2)  # (B, n, heads, d)
        projected: Tensor = self.hi_proj(mixed.flatten(2))
        return projected

    def lo_fi(self, x: Tensor, pooled: Tensor) -> Tensor:
        """Attention of tokens (B, N, C) to a pooled map (B, M, C) -> (B, N, lo_dim)."""
        q = self.lo_q(x).unflatten(-1, (self.lo_heads, self.head_dim)).transpose(1, 2)
        kv = self.lo_kv(pooled).unflatten(-1, (2, self.lo_heads, self.head_dim))
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, M, d) each
        mixed = attend(q, k, v, fused=self.fused).transpose(1, 2)  # (B, N, heads, d)
        projected: Tensor = self.lo_proj(mixed.flatten(2))
        return projected

    def windows(self, x: Tensor) -> Tensor:
        """High frequencies of a map whose sides are multiples of the window: (B, H, W, hi_dim)."""
        windows = split_windows(x, self.window_size)  # (B, h, w, s*s, C)
        mixed = self.hi_fi(windows.flatten(0, 2)).unflatten(0, windows.shape[:3])
        return join_windows(mixed, self.window_size)

    def pooled(self, x: Tensor) -> Tensor:
        """Mean of each window of such a map: (B, H, W, C) -> (B, H * W / s^2, C)."""
        if self.window_size > 1:
            x = F.avg_pool2d(x.permute(0, 3, 1, 2), self.window_size).permute(0, 2, 3, 1)
        return x.flatten(1, 2)

    def pad(self, x: Tensor) -> Tensor:
        """A map with zeros at the bottom and right, to multiples of the window."""
        bottom, right = (-side % self.window_size for side in x.shape[1:3])
        return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Mix the positions of a map.

        Args:
            x: a map (B, H, W, C), or tokens (B, H * W, C) with their ``size``. Sides that are no
                multiples of the window are padded with zeros at the bottom and right, which take
                part, and cut off afterwards.
            size: (H, W) of tokens.

        Returns:
            Of the shape of ``x``.

        Raises:
            DataError: tokens come without their size, or with another.
        """
        if x.ndim == 3:
            return self._tokens(x, size)
        height, width = x.shape[1:3]
        x = self.pad(x)
        parts = []
        if self.hi_heads:
            parts.append(self.windows(x))
        if self.lo_heads:
            parts.append(self.lo_fi(x.flatten(1, 2), self.pooled(x)).unflatten(1, x.shape[1:3]))
        mixed: Tensor = self.proj_drop(torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0])
        return mixed[:, :height, :width]

    def _tokens(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        if size is None or size[0] * size[1] != x.shape[1]:
            raise DataError(
                f"HiLo was given {x.shape[1]} tokens of a map of size {size}; give size=(H, W) "
                "with H * W tokens, or a map (B, H, W, C)."
            )
        mixed: Tensor = self(x.unflatten(1, size)).flatten(1, 2)
        return mixed

    def macs(self, height: int, width: int) -> int:
        """Multiply-adds of one map, without biases and softmax; padding is counted.

        Example:
            >>> HiLoAttention(384, 12, alpha=0.5).macs(14, 14)
            83467776
        """
        s, c, hi, lo = self.window_size, self.dim, self.hi_dim, self.lo_dim
        n = (height + -height % s) * (width + -width % s)
        m = n // s**2
        high = n * c * 3 * hi + 2 * n * s**2 * hi + n * hi**2
        low = n * c * lo + m * c * 2 * lo + 2 * n * m * lo + n * lo**2
        return (high if hi else 0) + low
