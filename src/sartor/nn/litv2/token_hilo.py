"""HiLo attention on a sequence that has tokens in front of its map, such as a class token.

HiLo (Pan, Cai, Zhuang, NeurIPS 2022, arXiv 2205.13213) knows maps alone; how other tokens take part
is sartor's addition. To the low frequencies they are one more pooled token each, which everything
looks at and which look at the pooled map; within windows they see each other alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError
from sartor.nn.litv2.hilo import HiLoAttention

__all__ = ["TokenHiLo"]


class TokenHiLo(nn.Module):
    """Attention over tokens (B, P + H * W, C), with the calls of timm's ``Attention``.

    Args:
        attn: mixes the map.
        size: (H, W).
        num_prefix_tokens: P.

    Example:
        >>> layer = TokenHiLo(HiLoAttention(8, 4), (4, 6), num_prefix_tokens=1)
        >>> layer(torch.zeros(2, 25, 8)).shape
        torch.Size([2, 25, 8])
    """

    def __init__(
        self, attn: HiLoAttention, size: tuple[int, int], *, num_prefix_tokens: int = 0
    ) -> None:
        super().__init__()
        self.attn, self.size, self.num_prefix_tokens = attn, size, num_prefix_tokens

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens (B, P + H * W, C) -> tokens of that shape.

        Raises:
            DataError: there are other than P + H * W tokens, or a mask, which HiLo does not know.
        """
        if attn_mask is not None or is_causal:
            raise DataError("HiLo attends without a mask and was given one; leave it out.")
        p, (height, width), attn = self.num_prefix_tokens, self.size, self.attn
        if x.shape[1] != p + height * width:
            raise DataError(
                f"This HiLo takes {p} tokens and a map of {self.size}, and was given {x.shape[1]} "
                "tokens in all; make the model for the images' size."
            )
        if not p:
            mapped: Tensor = attn(x, size=self.size)
            return mapped
        front, grid = x[:, :p], attn.pad(x[:, p:].unflatten(1, self.size))
        parts = []
        if attn.hi_heads:
            windows = attn.windows(grid)[:, :height, :width].flatten(1, 2)
            parts.append(torch.cat((attn.hi_fi(front), windows), dim=1))  # (B, P + N, hi_dim)
        if attn.lo_heads:
            pooled = torch.cat((front, attn.pooled(grid)), dim=1)  # (B, P + M, C)
            parts.append(attn.lo_fi(x, pooled))  # (B, P + N, lo_dim)
        mixed: Tensor = attn.proj_drop(torch.cat(parts, dim=-1))
        return mixed
