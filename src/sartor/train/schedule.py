"""Learning-rate schedule: linear warm-up, then half a cosine."""

from __future__ import annotations

import math

__all__ = ["warmup_cosine"]


def warmup_cosine(step: int, total: int, *, warmup: int = 0, floor: float = 0.0) -> float:
    """Factor of the base rate at ``step`` of ``total``.

    Args:
        step: from 0.
        total: number of steps, above 0.
        warmup: steps of linear rise from 1 / warmup to 1.
        floor: factor at the end.

    Returns:
        A factor in [0, 1].

    Example:
        >>> [round(warmup_cosine(s, 4), 3) for s in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    passed = (step - warmup) / max(total - warmup, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(passed, 1.0)))
