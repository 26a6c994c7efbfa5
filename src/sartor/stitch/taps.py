"""Taps: where on a two-way route the features are that a dense head reads.

Source: Pan, Liu, He, Cai, Zhuang, 2024, arXiv 2307.00154, section 3.4, and the official backbone
    for segmentation. Heads read blocks of the large anchor; where a route runs the small one, its
    block that stands for such a block is read, through the stitching layer that follows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.stitch.plan import StitchConfig
from sartor.stitch.two_way import small_block

__all__ = ["Tap", "check_out_indices", "collect", "plan_taps", "token_map"]

Tap = tuple[int, int | None]


def check_out_indices(out_indices: Sequence[int], depth: int) -> None:
    """Refuse indices that are not increasing blocks of an anchor of that depth.

    Raises:
        FamilyError: says which.
    """
    given = list(out_indices)
    if not given or given != sorted(set(given)):
        raise FamilyError(f"out_indices must be at least one and increasing, got {given}.")
    if given[0] < 0 or given[-1] >= depth:
        raise FamilyError(
            f"out_indices name blocks of the large model, 0 to {depth - 1}, got {given}."
        )


def plan_taps(
    config: StitchConfig, depths: tuple[int, int], out_indices: Sequence[int]
) -> list[Tap]:
    """Find each wanted feature on a route.

    Args:
        config: a two-way route; anchor 0 is the small one.
        depths: blocks of the small and of the large anchor.
        out_indices: blocks of the large anchor, increasing.

    Returns:
        For each index in turn: the position among the blocks and the stitching layers of the
        route, and the number of the small-to-large layer to send it through; ``None`` where it is
        of the large anchor's width already.

    Raises:
        FamilyError: the indices are not increasing, or there is no such block.

    Example:
        >>> from sartor.stitch.plan import StitchConfig
        >>> plan_taps(StitchConfig(anchors=(0,)), (12, 24), (9, 14, 19, 23))
        [(4, 4), (7, 7), (9, 9), (11, 11)]
    """
    check_out_indices(out_indices, depths[1])
    segments = config.routes or ((0, depths[config.anchors[0]]),)
    taps: list[Tap] = []
    first = 0  # position of the segment's first block
    for number, (anchor, (start, stop)) in enumerate(zip(config.anchors, segments, strict=True)):
        for index in out_indices:
            block = index if anchor == 1 else small_block(index, *depths)
            at = first + block - start
            if not start <= block < stop:
                continue
            if anchor == 1:
                taps.append((at, None))
            elif block == stop - 1 and number + 1 < len(segments):
                taps.append((at + 1, None))  # the route itself goes through that layer next
            else:
                taps.append((at, block))
        first += stop - start + 1
    return taps


def collect(
    steps: Iterable[nn.Module], taps: Iterable[tuple[int, nn.Module | None]], inputs: Tensor
) -> list[Tensor]:
    """Run modules in order and keep some of their outputs as maps.

    Args:
        steps: from the inputs on.
        taps: for each output to keep, in order: its position among the steps, and what to send it
            through. Steps after the last one do not run.
        inputs: (B, C, H, W).

    Returns:
        Maps (B, C, h, w).
    """
    kept: list[Tensor] = []
    waiting = list(taps)
    features = inputs
    for position, step in enumerate(steps):
        if not waiting:
            break
        features = step(features)
        while waiting and waiting[0][0] == position:
            _, layer = waiting.pop(0)
            wide = features if layer is None else layer(features)
            kept.append(token_map(wide, inputs.shape[-2], inputs.shape[-1]))
    return kept


def token_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens as a map: those before the grid, such as the class token, are dropped.

    Args:
        tokens: (B, P + h * w, C), P fewer than the grid of the next finer patches has more.
        height: of the inputs.
        width: of the inputs.

    Returns:
        (B, C, h, w).

    Raises:
        FamilyError: square patches of no size give so many tokens.

    Example:
        >>> import torch
        >>> token_map(torch.zeros(2, 197, 8), 224, 224).shape
        torch.Size([2, 8, 14, 14])
    """
    divisor = math.gcd(height, width)
    patches = (p for p in range(1, divisor + 1) if divisor % p == 0)
    grids = ((height // p, width // p) for p in patches)
    grid = next((g for g in grids if g[0] * g[1] <= tokens.shape[1]), None)
    if tokens.ndim != 3 or grid is None:
        raise FamilyError(
            f"Features of shape {tuple(tokens.shape)} are not the tokens of inputs of {height} x "
            f"{width}; dense taps need a plain ViT."
        )
    of_grid = tokens[:, tokens.shape[1] - grid[0] * grid[1] :]  # (B, h * w, C)
    return of_grid.transpose(1, 2).unflatten(2, grid).contiguous()  # (B, C, h, w)
