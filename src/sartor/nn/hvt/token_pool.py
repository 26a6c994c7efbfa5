"""Max pooling of a token sequence, with new positions for what remains.

Source: Pan, Zhuang, Liu, He, Cai, "Scalable Vision Transformers with Hierarchical Pooling", ICCV
2021, arXiv 2103.10619, section 3.2. Tokens are pooled in raster order, in one dimension, so that a
window can reach around the end of a row; that is the method, and not a pooling of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError

__all__ = ["TokenPool1d", "pooled_length", "resize_sequence"]

_MODES = ("max", "avg")


def pooled_length(length: int, kernel_size: int, stride: int) -> int:
    """How many tokens are left of ``length``: windows that lie inside the sequence.

    Raises:
        FamilyError: there is not one window, or a number is below 1.

    Example:
        >>> [pooled_length(n, 3, 2) for n in (196, 97, 48, 23)]
        [97, 48, 23, 11]
    """
    if min(kernel_size, stride) < 1 or length < kernel_size:
        raise FamilyError(
            f"Pooling with a kernel of {kernel_size} and a stride of {stride} needs numbers of at "
            f"least 1 and at least {kernel_size} tokens, got {length}."
        )
    return (length - kernel_size) // stride + 1


def resize_sequence(positions: Tensor, length: int) -> Tensor:
    """Stretch positions (1, N, C) to (1, length, C), linearly along the sequence."""
    stretched = F.interpolate(
        positions.float().transpose(1, 2), size=length, mode="linear", align_corners=False
    )
    return stretched.transpose(1, 2).to(positions.dtype)


class TokenPool1d(nn.Module):
    """Pool tokens (B, P + N, C) to (B, P + N', C) and add learned positions to the N' of them.

    Args:
        dim: channels C.
        length: N, tokens that are pooled.
        kernel_size: tokens a window.
        stride: tokens from one window to the next.
        mode: ``max`` as in the paper, or ``avg``.
        num_prefix_tokens: P, tokens in front that stay as they are, such as a class token.
        zero_init: whether the positions start at zero, as where weights are trained already, and
            not at random with a deviation of 0.02.

    Raises:
        FamilyError: the sequence is shorter than the kernel, a number is below 1, or there is no
            such mode.

    Example:
        >>> TokenPool1d(8, 196)(torch.zeros(2, 196, 8)).shape
        torch.Size([2, 97, 8])
    """

    def __init__(
        self,
        dim: int,
        length: int,
        *,
        kernel_size: int = 3,
        stride: int = 2,
        mode: str = "max",
        num_prefix_tokens: int = 0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        if mode not in _MODES:
            raise FamilyError(f"Tokens are pooled by {' or '.join(_MODES)}, got {mode!r}.")
        self.length, self.kernel_size, self.stride = length, kernel_size, stride
        self.mode, self.num_prefix_tokens = mode, num_prefix_tokens
        self.out_length = pooled_length(length, kernel_size, stride)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.out_length, dim))
        if not zero_init:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, P + N, C) -> tokens (B, P + N', C).

        Raises:
            DataError: there are other than P + N tokens.
        """
        p = self.num_prefix_tokens
        if x.shape[1] != p + self.length:
            raise DataError(
                f"This pool has positions for {self.length} tokens and {p} in front, and was given "
                f"{x.shape[1]} in all; make the model for the images' size."
            )
        channels = x[:, p:].transpose(1, 2)  # (B, C, N)
        pool = F.max_pool1d if self.mode == "max" else F.avg_pool1d
        pooled = pool(channels, self.kernel_size, self.stride).transpose(1, 2) + self.pos_embed
        return torch.cat((x[:, :p], pooled), dim=1) if p else pooled

    def extra_repr(self) -> str:
        """Lengths, kernel and mode."""
        return (
            f"{self.length} -> {self.out_length}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, mode={self.mode!r}"
        )
