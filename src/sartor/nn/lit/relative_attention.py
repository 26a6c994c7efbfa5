"""Global attention over a map with a learned bias for every distance.

Source: Pan, Zhuang, He, Liu, Cai, AAAI 2022, arXiv 2105.14217; the bias is that of Swin (Liu et
    al.,
ICCV 2021, arXiv 2103.14030, equation 4) with the whole map as its one window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError

__all__ = ["MapAttention", "relative_index", "resize_bias_table"]


def relative_index(height: int, width: int) -> Tensor:
    """Row of the bias table for each pair of positions: (H * W, H * W).

    Example:
        >>> relative_index(4, 4)[0, :5].tolist()
        [24, 23, 22, 21, 17]
    """
    y = torch.arange(height).repeat_interleave(width)  # (N,)
    x = torch.arange(width).repeat(height)
    down = y[:, None] - y + height - 1  # (N, N), from 0
    right = x[:, None] - x + width - 1
    return down * (2 * width - 1) + right


def resize_bias_table(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Stretch a bias table ((2H - 1)(2W - 1), heads) to maps of another size, bicubically."""
    if old == new:
        return table
    grid = table.T.reshape(1, -1, 2 * old[0] - 1, 2 * old[1] - 1)
    size = (2 * new[0] - 1, 2 * new[1] - 1)
    stretched = F.interpolate(grid.float(), size=size, mode="bicubic", align_corners=False)
    return stretched.reshape(table.shape[1], -1).T.to(table.dtype)


class MapAttention(nn.Module):
    """Multi-head attention of all positions of a map to all, with torch's fused kernel.

    Args:
        dim: channels C, a multiple of ``num_heads``.
        num_heads: heads, each of ``dim / num_heads`` channels.
        size: (H, W) of the map, for which a bias is learned; ``None`` for no bias, and any size.

    Raises:
        FamilyError: ``dim`` is no multiple of ``num_heads``.

    Example:
        >>> MapAttention(8, 2, size=(4, 4))(torch.zeros(2, 4, 4, 8)).shape
        torch.Size([2, 4, 4, 8])
    """

    def __init__(self, dim: int, num_heads: int, *, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise FamilyError(
                f"Attention's dim must be a multiple of its num_heads, got {dim} and {num_heads}."
            )
        self.num_heads, self.head_dim, self.size = num_heads, dim // num_heads, size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_bias: nn.Parameter | None = None
        if size is not None:
            rows = (2 * size[0] - 1) * (2 * size[1] - 1)
            self.relative_bias = nn.Parameter(torch.empty(rows, num_heads))
            nn.init.trunc_normal_(self.relative_bias, std=0.02)
            self.register_buffer("index", relative_index(*size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions of maps (B, H, W, C), or of tokens (B, N, C) where there is no bias.

        Raises:
            DataError: the map has another size than the bias.
        """
        shape, bias = x.shape, None
        if self.relative_bias is not None:
            if tuple(shape[1:-1]) != self.size:
                raise DataError(
                    f"This attention has a bias for maps of {self.size} and was given "
                    f"{tuple(shape[1:-1])}; make the model with the images' img_size."
                )
            bias = self.relative_bias[self.index].permute(2, 0, 1)  # (heads, N, N)
        x = x.reshape(shape[0], -1, shape[-1])  # (B, N, C)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, d) each
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(shape))
        return projected
