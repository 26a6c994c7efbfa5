"""Which samples an epoch of InfoBatch trains on, and with which weights: pure functions of the
scores.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["Draw", "InfoBatchSettings", "draw_epoch", "grouped"]

#: samples that are handled at once where a copy is made
_CHUNK = 2**18


@dataclass(frozen=True, kw_only=True)
class InfoBatchSettings:
    """What InfoBatch leaves out and when.

    Attributes:
        prune_ratio: share of the samples below the mean score that an epoch leaves out, in [0, 1);
            0 leaves none out.
        anneal_fraction: share of the epochs that may leave samples out, in [0, 1]; the others, at
            the end, take all. 1 never takes all again, which leaves batch norms with statistics of
            the harder samples.
        warmup_epochs: first epochs that take all, at least 0. The very first one always does, as
            all scores are equal before it.
        quantiles: pairs (quantile, kept share) with rising quantiles in (0, 1) and shares in
            (0, 1]: below each quantile of the scores that share is kept, above the last one all.
            Replaces mean and ``prune_ratio``; the paper's ImageNet runs used ``((0.2, 0.25),
            (0.85, 0.5))``.
        seed: of what is kept and of the order, any integer of at least 0.

    Raises:
        TrainingError: a value is out of its range.
    """

    prune_ratio: float = 0.5
    anneal_fraction: float = 0.875
    warmup_epochs: int = 0
    quantiles: tuple[tuple[float, float], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not (
            0 <= self.prune_ratio < 1
            and 0 <= self.anneal_fraction <= 1
            and self.warmup_epochs >= 0
            and self.seed >= 0
        ):
            raise TrainingError(
                "InfoBatch takes a prune_ratio in [0, 1), an anneal_fraction in [0, 1], "
                f"warmup_epochs >= 0 and a seed >= 0, got {self}."
            )
        edges = [0.0, *(edge for edge, _ in self.quantiles), 1.0]
        rising = all(low < high for low, high in itertools.pairwise(edges))
        if not (rising and all(0 < share <= 1 for _, share in self.quantiles)):
            raise TrainingError(
                "InfoBatch's quantiles are pairs (quantile, kept share) with rising quantiles in "
                f"(0, 1) and shares in (0, 1], got {self.quantiles}."
            )

    def prunes(self, epoch: int, epochs: int) -> bool:
        """Whether that epoch, counted from 0, may leave samples out.

        Example:
            >>> [epoch for epoch in range(8) if InfoBatchSettings().prunes(epoch, 8)]
            [0, 1, 2, 3, 4, 5, 6]
        """
        return self.warmup_epochs <= epoch < self.anneal_fraction * epochs

    @property
    def shares(self) -> tuple[float, ...]:
        """Kept share of each group of samples, easiest first; 1 for the last one."""
        return (*(share for _, share in self.quantiles or ((0.0, 1 - self.prune_ratio),)), 1.0)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One epoch.

    Attributes:
        order: the kept samples, shuffled, (K,), on the CPU.
        groups: group of each sample, left out or not, (N,), uint8.
        weights: loss weight of the kept samples of each group, (G,), float64: size of the group
            over the number that is kept of it, exactly.
    """

    order: Tensor
    groups: Tensor
    weights: Tensor


def grouped(scores: Tensor, settings: InfoBatchSettings) -> Tensor:
    """Group each sample by its score: 0 below the mean or the first quantile, and so on.

    Args:
        scores: (N,), finite.
        settings: names the edges; a score on an edge belongs above it.

    Returns:
        (N,), uint8, on the device of the scores.

    Example:
        >>> grouped(torch.arange(4.0), InfoBatchSettings()).tolist()
        [0, 0, 1, 1]
    """
    if settings.quantiles:
        wanted = [edge for edge, _ in settings.quantiles]
        edges = np.quantile(scores.cpu().numpy(), wanted).tolist()
    else:
        # in double precision and by parts: the mean of equal scores is that score, and no copy
        parts = [part.sum(dtype=torch.float64) for part in scores.split(_CHUNK)]
        edges = [float(torch.stack(parts).sum()) / len(scores)]
    groups = torch.zeros(len(scores), dtype=torch.uint8, device=scores.device)
    for edge in edges:
        groups += scores >= torch.tensor(edge, dtype=scores.dtype, device=scores.device)
    return groups


def draw_epoch(groups: Tensor, shares: tuple[float, ...], generator: torch.Generator) -> Draw:
    """Keep a uniformly random part of each group and shuffle what is kept.

    Args:
        groups: group of each sample, (N,), uint8, on the CPU.
        shares: kept share of each group, in (0, 1]; rounded down to whole samples, and at least one
            sample of a group that has any.
        generator: of the CPU. Where all is kept, the order is that of ``torch.randperm``.
    """
    keep = torch.ones(len(groups), dtype=torch.bool)
    weights = torch.ones(len(shares), dtype=torch.float64)
    for group, share in enumerate(shares):
        if share == 1:
            continue
        members = groups == group
        size = int(members.count_nonzero())
        kept = _kept(size, share)
        if kept == size:
            continue
        keep.masked_scatter_(members, _subset(size, kept, generator))
        weights[group] = size / kept
    return Draw(order=_order(keep, generator), groups=groups, weights=weights)


def _kept(size: int, share: float) -> int:
    """Whole samples of a group; what floating point takes off an integer does not count."""
    return min(size, max(1, math.floor(share * size + 1e-9))) if size else 0


def _subset(size: int, count: int, generator: torch.Generator) -> Tensor:
    """A uniformly random subset of exactly ``count`` of ``size``: (size,), bool.

    A coin for each, then as many of the larger side as are too many, drawn at random, change sides.
    No step knows one member from another, so every subset is as likely as another. A shuffle of all
    members would do the same and take four times as long.
    """
    chosen = torch.empty(size, dtype=torch.bool)
    for part in chosen.split(_CHUNK):  # in parts, as memory that comes and goes in blocks stays
        part.copy_(torch.rand(len(part), generator=generator) < count / size)
    excess = int(chosen.count_nonzero()) - count
    while excess:
        drawn = torch.randint(size, (abs(excess),), generator=generator).unique()
        changed = drawn[chosen[drawn] == (excess > 0)]
        chosen[changed] = excess < 0
        excess -= len(changed) if excess > 0 else -len(changed)
    return chosen


def _order(keep: Tensor, generator: torch.Generator) -> Tensor:
    """The positions of what is kept, (N,) -> (K,), shuffled."""
    if bool(keep.all()):
        return _shuffled(len(keep), generator)
    kept = torch.empty(int(keep.count_nonzero()), dtype=_index_dtype(len(keep)))  # (K,)
    done = 0
    for number, part in enumerate(keep.split(_CHUNK)):
        places = part.nonzero().squeeze(1)
        kept[done : done + len(places)] = places + number * _CHUNK
        done += len(places)
    return kept.index_select(0, _shuffled(len(kept), generator))


def _shuffled(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, dtype=_index_dtype(count))


def _index_dtype(count: int) -> torch.dtype:
    """Half the memory where it suffices."""
    return torch.int32 if count < 2**31 else torch.int64
