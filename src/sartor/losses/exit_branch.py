"""Exit branches: what takes an intermediate feature of a student to logits, while it is trained.

Source: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
Distillation, NeurIPS 2023, arXiv 2310.19444. Deviations: the grid at which tokens are no longer
merged is a setting (7 in the released code, which leaves small images unmerged); tokens of another
width that need no merging go through a linear layer first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.core.packages import require
from sartor.losses.patch_tokens import grid_side, merge_neighbours

__all__ = ["ConvExit", "TokenExit", "exit_branch"]


def exit_branch(
    shape: Sequence[int],
    num_classes: int,
    *,
    stage: int,
    num_stages: int = 4,
    width: int,
    prefix: int = 0,
    final_grid: int = 7,
) -> nn.Module:
    """Make the branch that fits a feature.

    Args:
        shape: of the feature: (B, C, H, W) makes a :class:`ConvExit`, (B, P + N, D) a
            :class:`TokenExit`; the batch may be any.
        num_classes: K.
        stage: from 1; later stages get shorter branches.
        num_stages: of the student, at least ``stage``.
        width: D of the features that the classifier sees.
        prefix: P, tokens before the patches.
        final_grid: side of the token grid below which nothing is merged.

    Raises:
        TrainingError: the feature is neither, or a number is out of range.

    Example:
        >>> branch = exit_branch((2, 64, 8, 8), 100, stage=1, width=768)
        >>> branch(torch.zeros(2, 64, 8, 8)).shape, sum(p.numel() for p in branch.parameters())
        (torch.Size([2, 100]), 411748)
    """
    if not 1 <= stage <= num_stages or min(width, num_classes, final_grid) < 1:
        raise TrainingError(
            f"An exit branch takes a stage in 1..{num_stages} and a width, num_classes and "
            f"final_grid of at least 1, got {stage}, {width}, {num_classes} and {final_grid}."
        )
    left = num_stages - stage
    if len(shape) == 4 and prefix == 0:
        return ConvExit(shape[1], width, num_classes, downsamplings=left)
    if len(shape) == 3 and 0 <= prefix < shape[1]:
        return TokenExit(
            shape[1] - prefix,
            shape[2],
            width,
            num_classes,
            depth=max(left, 1),
            prefix=prefix,
            final_grid=final_grid,
        )
    raise TrainingError(
        f"Exit branches take maps (batch, channels, height, width), or tokens (batch, tokens, "
        f"width) with more tokens than their prefix, got {tuple(shape)} and a prefix of {prefix}; "
        "tap modules that return either."
    )


class ConvExit(nn.Module):
    """Strided separable convolutions, global average, classifier.

    Args:
        channels: C of the maps.
        width: channels before the classifier.
        num_classes: K.
        downsamplings: number of separable convolutions, each of which halves the map and doubles
            the channels (the last one gives ``width``); 0 takes one 1 x 1 convolution.
    """

    def __init__(self, channels: int, width: int, num_classes: int, *, downsamplings: int) -> None:
        super().__init__()
        widths = [channels * 2**i for i in range(downsamplings)] + [width]
        layers = [_sep_conv(widths[i], widths[i + 1]) for i in range(downsamplings)]
        self.projector = nn.Sequential(*layers) if layers else nn.Conv2d(channels, width, 1)
        self.head = nn.Linear(width, num_classes)
        self.apply(_initialise)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        maps = self.projector(features)  # (B, D, h, w)
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


class TokenExit(nn.Module):
    """Patch merging, transformer blocks, classifier on the class token or the mean.

    Args:
        patches: N, tokens without the prefix.
        in_width: of the tokens.
        width: D of the blocks, a multiple of 4.
        num_classes: K.
        depth: number of blocks, at least 1.
        prefix: P tokens before the patches; they are not merged, and the first one is classified.
        final_grid: merging halves the side while the grid is at least twice this.

    Raises:
        TrainingError: the patches are no square grid, a side to be halved is odd, the width is no
            multiple of 4, or prefix tokens would have to change their width while patches merge.
    """

    def __init__(
        self,
        patches: int,
        in_width: int,
        width: int,
        num_classes: int,
        *,
        depth: int,
        prefix: int = 0,
        final_grid: int = 7,
    ) -> None:
        super().__init__()
        side = grid_side(patches)
        merges = max(int(math.log2(side / final_grid)), 0)
        _check_tokens(side, merges, in_width, width, prefix)
        self.prefix = prefix
        self.merging = nn.ModuleList(
            # the last of several has no activation
            _merging(width if i else in_width, width, active=merges == 1 or i < merges - 1)
            for i in range(merges)
        )
        bridged = in_width != width and not merges
        self.bridge = nn.Linear(in_width, width) if bridged else nn.Identity()
        block = require("timm.models.vision_transformer").Block
        self.blocks = nn.Sequential(*(block(width, num_heads=4) for _ in range(depth)))
        self.head = nn.Linear(width, num_classes)
        self.apply(_initialise)

    def forward(self, features: Tensor) -> Tensor:
        """(B, P + N, in_width) -> logits (B, K)."""
        first, patches = features[:, : self.prefix], features[:, self.prefix :]
        for merge in self.merging:
            patches = merge(merge_neighbours(patches, 2))  # (B, N / 4, D)
        tokens = torch.cat([first, patches], dim=1) if self.prefix else patches
        tokens = self.blocks(self.bridge(tokens))  # (B, P + n, D)
        seen = tokens[:, 0] if self.prefix else tokens.mean(dim=1)  # (B, D)
        logits: Tensor = self.head(seen)
        return logits


def _check_tokens(side: int, merges: int, in_width: int, width: int, prefix: int) -> None:
    if side % 2**merges:
        raise TrainingError(
            f"A grid of {side} x {side} patches cannot be halved {merges} times; raise final_grid "
            f"above {side // 2} to leave it as it is."
        )
    if width % 4:
        raise TrainingError(f"The 4 heads of a branch need a width of 4, 8, 12, ..., got {width}.")
    if prefix and merges and in_width != width:
        raise TrainingError(
            f"Patches that merge change from width {in_width} to {width} and prefix tokens cannot "
            f"follow; take width={in_width} or tap modules without a class token."
        )


def _sep_conv(channels: int, width: int) -> nn.Sequential:
    """Two depthwise separable convolutions: (B, C, H, W) -> (B, D, ceil(H / 2), ceil(W / 2))."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def _merging(channels: int, width: int, *, active: bool) -> nn.Sequential:
    """Four neighbours, concatenated, to one token: (B, n, 4 C) -> (B, n, D)."""
    linear = nn.Linear(4 * channels, width, bias=False)
    layers = [nn.LayerNorm(4 * channels), linear]
    return nn.Sequential(*layers, nn.GELU() if active else nn.Identity())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
