"""Blocks that are called with the size of their map, as those of timm's PVTv2."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

__all__ = ["SizedBlock", "takes_size"]


class SizedBlock(nn.Module):
    """A block that takes tokens and the size of their map, as one that takes the map alone.

    Args:
        block: maps tokens (B, H * W, C) and (H, W) to tokens of that shape.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) -> maps of that shape."""
        size = x.shape[1:3]
        tokens: Tensor = self.block(x.flatten(1, 2), size)
        return tokens.unflatten(1, size)


def takes_size(block: nn.Module) -> bool:
    """Whether a block must be given something beside its features.

    Example:
        >>> takes_size(nn.Linear(2, 2))
        False
    """
    given = inspect.signature(block.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in kinds and one.default is one.empty for one in given) > 1
