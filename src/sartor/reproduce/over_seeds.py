"""Several ways to do one thing, each run with every seed: means, gains, columns of a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

__all__ = ["columns", "gain", "mean"]

Way = TypeVar("Way")
#: what is averaged where nothing else is named
ACCURACY: Callable[[Any], float] = attrgetter("accuracy")


def mean(
    results: Sequence[Mapping[Way, Any]], way: Way, of: Callable[[Any], float] = ACCURACY
) -> float:
    """Mean over seeds of one number of a way.

    Args:
        results: what each way gave, a mapping for each seed.
        way: which.
        of: from what a way gave to the number.
    """
    return statistics.mean(of(result[way]) for result in results)


def gain(
    results: Sequence[Mapping[Way, Any]],
    way: Way,
    other: Way,
    of: Callable[[Any], float] = ACCURACY,
) -> float:
    """Mean of one way minus mean of another.

    Example:
        >>> gain([{"new": 3.0, "old": 1.0}, {"new": 5.0, "old": 1.0}], "new", "old", of=float)
        3.0
    """
    return mean(results, way, of) - mean(results, other, of)


def columns(
    results: Sequence[Mapping[Way, Any]],
    way: Way,
    seeds: Iterable[int],
    of: Callable[[Any], float] = ACCURACY,
    digits: int = 3,
) -> dict[str, str | int | float]:
    """One number of a way with each seed, and their mean, as columns of a row.

    Example:
        >>> columns([{"new": 3.0}, {"new": 5.0}], "new", (0, 1), of=float)
        {'seed 0': 3.0, 'seed 1': 5.0, 'mean': 4.0}
    """
    each = {
        f"seed {seed}": round(of(result[way]), digits)
        for seed, result in zip(seeds, results, strict=True)
    }
    return {**each, "mean": round(mean(results, way, of), digits)}
