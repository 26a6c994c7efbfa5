"""Groups of configurations of like cost, and training steps that visit every group equally often.

Source: Pan, Liu, He, Cai, Zhuang, 2024, arXiv 2307.00154, section 3.2. Deviation: a draw is a
    function of the seed and the step, so that all processes and resumed runs agree.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence

from sartor.core.errors import FamilyError

__all__ = ["GroupedStitchSampler", "group_by_flops", "tilted_weights"]


def group_by_flops(flops: Mapping[int, float], gap: float) -> list[list[int]]:
    """Group configurations by cost, from cheap to costly.

    A configuration opens a new group when it costs more than ``gap`` above the first member of the
    open one.

    Args:
        flops: configuration -> cost, in any unit.
        gap: in the same unit, above 0; the paper takes 1e9 multiply-accumulates.

    Raises:
        FamilyError: the gap is not above 0, or there is no configuration.

    Example:
        >>> group_by_flops({0: 1.0, 1: 3.0, 2: 1.5, 3: 2.5}, gap=1.0)
        [[0, 2], [3, 1]]
    """
    if not gap > 0:
        raise FamilyError(f"The gap between groups must be above 0, got {gap:g}.")
    if not flops:
        raise FamilyError("There is no configuration to group; give the cost of at least one.")
    groups: list[list[int]] = []
    opened = 0.0
    for index in sorted(flops, key=lambda i: (flops[i], i)):
        if not groups or flops[index] - opened > gap:
            groups.append([])
            opened = flops[index]
        groups[-1].append(index)
    return groups


def tilted_weights(count: int, k: float) -> list[float]:
    """Shares of groups that favour costly ones: group i gets i / k + 1 / count, normalised.

    Args:
        count: number of groups, at least 1.
        k: the larger, the more even; above 0.

    Raises:
        FamilyError: a number is out of range.

    Example:
        >>> [round(w, 3) for w in tilted_weights(2, k=2.0)]
        [0.333, 0.667]
    """
    if count < 1 or not k > 0:
        raise FamilyError(f"Weights need at least 1 group and k above 0, got {count} and {k:g}.")
    raw = [i / k + 1 / count for i in range(count)]
    return [weight / math.fsum(raw) for weight in raw]


class GroupedStitchSampler:
    """Draws a group, then uniformly one of its members.

    Args:
        groups: of configurations, as :func:`group_by_flops` makes them.
        weights: share of each group, at least 0; default: equal ones.
        seed: of the draws.

    Raises:
        FamilyError: there is no group, a group is empty, or the weights do not fit.

    Example:
        >>> sampler = GroupedStitchSampler([[0], [1, 2, 3]], seed=0)
        >>> sampler(7) == sampler(7)
        True
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        weights: Sequence[float] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if not groups or not all(groups):
            raise FamilyError(
                "The sampler has no groups, or an empty one; group the configurations first, with "
                "group_by_flops."
            )
        weights = [1.0] * len(groups) if weights is None else weights
        if len(weights) != len(groups) or min(weights) < 0 or not sum(weights) > 0:
            raise FamilyError(
                f"{len(groups)} groups need {len(groups)} weights of at least 0 and not all 0, "
                f"got {list(weights)}."
            )
        self.groups, self.seed = [list(group) for group in groups], seed
        self._edges = list(itertools.accumulate(weights))

    def __call__(self, step: int) -> int:
        """The configuration of training step ``step``."""
        digest = hashlib.sha256(f"{self.seed}:{step}:group".encode()).digest()
        share, within = (int.from_bytes(part, "big") / 2**64 for part in (digest[:8], digest[8:16]))
        number = bisect.bisect_right(self._edges, share * self._edges[-1])
        group = self.groups[min(number, len(self.groups) - 1)]
        return group[min(int(within * len(group)), len(group) - 1)]
