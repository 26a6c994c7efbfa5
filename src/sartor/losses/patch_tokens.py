"""Features of any architecture as patch tokens (B, N, D), and neighbouring tokens merged."""

from __future__ import annotations

import math

from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["grid_side", "merge_neighbours", "merge_patches", "patch_tokens"]


def patch_tokens(features: Tensor, *, prefix: int = 0, channels_last: bool = False) -> Tensor:
    """View features as tokens of patches, row by row, without the tokens before them.

    Args:
        features: tokens (B, P + N, D), or a map (B, D, H, W).
        prefix: P, the number of class, distillation and register tokens; 0 for maps.
        channels_last: maps come as (B, H, W, D), as Swin's do.

    Returns:
        (B, N, D), N = H * W for maps.

    Raises:
        TrainingError: the features are neither, or have no token behind the prefix.

    Example:
        >>> import torch
        >>> patch_tokens(torch.zeros(2, 197, 8), prefix=1).shape
        torch.Size([2, 196, 8])
        >>> patch_tokens(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 16, 8])
    """
    if features.ndim == 4 and prefix == 0:
        return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
    if features.ndim == 3 and 0 <= prefix < features.shape[1]:
        return features[:, prefix:]
    raise TrainingError(
        f"Patch tokens come from (batch, tokens, width) with more tokens than its prefix of "
        f"{prefix}, or from maps of four dimensions without a prefix, got "
        f"{tuple(features.shape)}; tap a module that returns either."
    )


def merge_patches(tokens: Tensor, max_tokens: int) -> Tensor:
    """Concatenate the channels of m x m neighbours, m = floor(side / floor(sqrt(max_tokens))).

    Args:
        tokens: of a square grid, row by row, (B, N, D).
        max_tokens: that may remain, at least 1; N or more changes nothing.

    Returns:
        (B, N / m^2, m^2 * D); channels follow the neighbours row by row.

    Raises:
        TrainingError: the grid is not square, its side is not a multiple of m, or more than
            ``max_tokens`` would remain.

    Example:
        >>> import torch
        >>> merge_patches(torch.arange(16.0).reshape(1, 16, 1), 4)[0, 0]
        tensor([0., 1., 4., 5.])
    """
    if max_tokens < 1:
        raise TrainingError(f"At least 1 token must remain, got max_tokens={max_tokens}.")
    if tokens.shape[1] <= max_tokens:
        return tokens
    side = grid_side(tokens.shape[1])
    ratio = side // math.isqrt(max_tokens)
    if side % ratio or (side // ratio) ** 2 > max_tokens:
        raise TrainingError(
            f"A grid of {side} x {side} patches does not merge into at most {max_tokens} by "
            f"{ratio} x {ratio}; give a max_tokens that is the square of a divisor of {side}."
        )
    return merge_neighbours(tokens, ratio)


def merge_neighbours(tokens: Tensor, ratio: int) -> Tensor:
    """Concatenate the channels of ``ratio`` x ``ratio`` neighbours.

    Args:
        tokens: of a square grid whose side is a multiple of ``ratio``, (B, N, D).
        ratio: at least 1.

    Returns:
        (B, N / ratio^2, ratio^2 * D).
    """
    side = grid_side(tokens.shape[1]) // ratio
    blocks = tokens.unflatten(1, (side, ratio, side, ratio))  # (B, h, r, w, r, D)
    return blocks.transpose(2, 3).flatten(3).flatten(1, 2)  # (B, h * w, r * r * D)


def grid_side(count: int) -> int:
    """Side of the square grid of ``count`` patches.

    Raises:
        TrainingError: the count is no square.

    Example:
        >>> grid_side(196)
        14
    """
    side = math.isqrt(count)
    if side * side != count or not count:
        raise TrainingError(
            f"{count} tokens are not the patches of a square grid; say how many tokens before "
            "them, such as a class token, are to be left out."
        )
    return side
