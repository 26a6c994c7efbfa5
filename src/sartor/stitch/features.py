"""Features on their way through an anchor: what enters and leaves each block, and how they are laid
out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sartor.core.modes import eval_mode
from sartor.stitch.anchor import Anchor

__all__ = ["CONVOLUTIONS", "channels_last", "channels_of", "same_grid", "trace"]

#: number of dimensions of a channels-first feature -> the convolution that maps it
CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


@torch.no_grad()
def trace(anchor: Anchor, inputs: Tensor) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """Run an anchor in eval mode and keep what enters and leaves each block.

    Args:
        anchor: its modes are left as they were found.
        inputs: (B, ...).

    Returns:
        (stage, block) -> (input, output) of that block.
    """
    kept = {}
    with eval_mode(anchor):
        features = anchor.embed(inputs)
        for stage, blocks in enumerate(anchor.stages):
            features = anchor.enter[stage](features)
            for block, module in enumerate(blocks):  # type: ignore[arg-type, var-annotated]
                following = module(features)
                kept[stage, block] = (features, following)
                features = following
            features = anchor.leave[stage](features)
    return kept


def channels_of(features: Tensor, layout: str) -> int:
    """Number of channels of a feature."""
    return features.shape[1 if layout == "first" else -1]


def channels_last(features: Tensor, layout: str) -> Tensor:
    """View of a feature with its channels in the last dimension."""
    return features.movedim(1, -1) if layout == "first" else features


def same_grid(front: Tensor, end: Tensor, *, layout: str) -> bool:
    """Whether two features agree in all but their channels."""
    return channels_last(front, layout).shape[:-1] == channels_last(end, layout).shape[:-1]
