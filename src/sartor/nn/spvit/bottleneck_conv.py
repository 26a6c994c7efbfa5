"""The convolutions that lie inside an attention layer's value and output weights.

Source: He, Cai, Liu, Pan, Zhang, Tao, Zhuang, "Pruning Self-attentions into Convolutional Layers in
Single Path", TPAMI 2024, arXiv 2111.11802, section 3.2. Order of the nine kernel positions as in
ziplab/SPViT: position k lies in row k % 3 and column k // 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError

__all__ = ["BottleneckConv", "ConvWeights", "conv_weights"]

CENTRE = 4


@dataclass(frozen=True, kw_only=True)
class ConvWeights:
    """Of a bottleneck: ``inner`` (e, D, k, k) with its bias (e,), ``outer`` (D, e)."""

    inner: Tensor
    inner_bias: Tensor
    outer: Tensor


def conv_weights(
    v_weight: Tensor,
    v_bias: Tensor | None,
    proj_weight: Tensor,
    head_probs: Tensor,
    *,
    kernel_size: int,
    alpha: float,
) -> ConvWeights:
    """Mix the heads of value and output weights into the weights of a bottleneck convolution.

    Args:
        v_weight: (h * e, D).
        v_bias: (h * e,) or ``None``.
        proj_weight: (D, h * e).
        head_probs: (h, 9), a logit for each head and kernel position.
        kernel_size: 1 or 3.
        alpha: temperature of the softmax over heads, above 0; small is nearly one head a position.

    Example:
        >>> v, o = torch.randn(6, 6), torch.randn(6, 6)
        >>> conv_weights(v, None, o, torch.ones(2, 9), kernel_size=3, alpha=0.01).inner.shape
        torch.Size([3, 6, 3, 3])
    """
    heads = head_probs.shape[0]
    p = (head_probs / alpha).softmax(dim=0)  # (h, 9)
    if kernel_size == 1:
        p = p[:, CENTRE : CENTRE + 1]
    kernels = torch.einsum("hk,hed->edk", p, v_weight.unflatten(0, (heads, -1)))  # (e, D, 9)
    side = kernel_size
    inner = kernels.unflatten(-1, (side, side)).transpose(-1, -2)  # columns first -> rows first
    if v_bias is None:
        inner_bias = v_weight.new_zeros(v_weight.shape[0] // heads)
    else:
        inner_bias = torch.einsum("hk,he->e", p, v_bias.unflatten(0, (heads, -1)))
    outer = torch.einsum("hk,dhe->de", p, proj_weight.unflatten(1, (heads, -1)))
    return ConvWeights(inner=inner, inner_bias=inner_bias, outer=outer)


class BottleneckConv(nn.Module):
    """A convolution to few channels, BatchNorm, ReLU, and a linear layer back; for patch tokens.

    Tokens in front of the map pass as they are. Takes the calls of timm's ``Attention``.

    Args:
        dim: D.
        hidden: e.
        kernel_size: 1 or 3; padded with zeros.
        grid_size: rows and columns of the map.
        prefix_tokens: in front of it.

    Raises:
        FamilyError: another kernel size, or a number below its range.

    Example:
        >>> BottleneckConv(8, 4, 3, (4, 6), prefix_tokens=1)(torch.zeros(2, 25, 8)).shape
        torch.Size([2, 25, 8])
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        kernel_size: int,
        grid_size: tuple[int, int],
        *,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        if kernel_size not in (1, 3) or min(dim, hidden, *grid_size) < 1 or prefix_tokens < 0:
            raise FamilyError(
                "A bottleneck convolution takes a kernel of 1 or 3 and sizes of at least 1, got "
                f"{kernel_size}, {dim}, {hidden} and {grid_size}."
            )
        self.grid_size, self.prefix_tokens = grid_size, prefix_tokens
        self.conv = nn.Conv2d(dim, hidden, kernel_size, padding=kernel_size // 2)
        self.norm = nn.BatchNorm2d(hidden)
        self.act = nn.ReLU()
        self.proj = nn.Linear(hidden, dim)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens (B, P + H * W, D) -> tokens of that shape.

        Raises:
            DataError: another number of tokens, or a mask.
        """
        if attn_mask is not None or is_causal:
            raise DataError("A convolution knows no mask and was given one; leave it out.")
        maps = patch_map(x, self.grid_size, self.prefix_tokens)
        mixed: Tensor = self.proj(self.act(self.norm(self.conv(maps))).flatten(2).transpose(1, 2))
        return torch.cat((x[:, : self.prefix_tokens], mixed), dim=1)


def patch_map(x: Tensor, grid_size: tuple[int, int], prefix_tokens: int) -> Tensor:
    """Map (B, D, H, W) of the tokens (B, P + H * W, D) behind the first P.

    Raises:
        DataError: another number of tokens.
    """
    height, width = grid_size
    if x.shape[1] != prefix_tokens + height * width:
        raise DataError(
            f"This layer takes {prefix_tokens} tokens and a map of {grid_size}, and was given "
            f"{x.shape[1]} tokens in all; make the model for the images' size."
        )
    return x[:, prefix_tokens:].transpose(1, 2).unflatten(2, (height, width))
