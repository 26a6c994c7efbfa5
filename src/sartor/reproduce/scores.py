"""Numbers that sum up many points: area under a frontier, rank correlation."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence

__all__ = ["hypervolume", "r_squared", "spearman"]


def hypervolume(points: Iterable[tuple[float, float]], *, cost: float, quality: float) -> float:
    """Area that points dominate up to a reference: lower cost and higher quality are better.

    Args:
        points: (cost, quality) each; those worse than the reference add nothing.
        cost: of the reference, the largest that counts.
        quality: of the reference, the lowest that counts.

    Returns:
        Area of the union of the rectangles between each point and the reference.

    Example:
        >>> hypervolume([(1.0, 0.5), (2.0, 1.0)], cost=3.0, quality=0.0)
        1.5
    """
    area, best = 0.0, quality
    edges = sorted(p for p in points if p[0] < cost and p[1] > quality)
    for (left, height), (right, _) in itertools.pairwise([*edges, (cost, quality)]):
        best = max(best, height)
        area += (right - left) * (best - quality)
    return area


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation of two sequences of equal length; ties get their mean rank.

    Returns:
        A number in [-1, 1]; 0 if one of them is constant.

    Example:
        >>> spearman([1, 2, 3, 4], [1, 4, 9, 16])
        1.0
    """
    a, b = _centred_ranks(first), _centred_ranks(second)
    scale = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / scale if scale else 0.0


def _centred_ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    ranks = {v: ordered.index(v) + (ordered.count(v) - 1) / 2 for v in set(ordered)}
    middle = (len(ordered) - 1) / 2
    return [ranks[v] - middle for v in values]


def r_squared(inputs: Sequence[float], outputs: Sequence[float]) -> float:
    """Share of the variance of ``outputs`` that the best straight line in ``inputs`` explains.

    Returns:
        A number in [0, 1]; 0 if one of them is constant.

    Example:
        >>> r_squared([0, 1, 2], [1, 3, 5])
        1.0
    """
    if len(set(inputs)) < 2 or len(set(outputs)) < 2:
        return 0.0
    return statistics.correlation(inputs, outputs) ** 2
