"""Which stitches exist: windows of kernel and stride over the blocks of two anchors, and the routes
they allow.

Source: Pan, Cai, Zhuang, 2023, arXiv 2302.06586, section 3. Deviation: where depths differ, a
    stitching layer belongs to a block of
the front anchor, as the paper intends; the official code numbers these layers with an offset of
one.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from sartor.core.errors import FamilyError

__all__ = ["Stitch", "StitchConfig", "enumerate_configs", "paired_stitches", "unpaired_stitches"]

Stitches = list[tuple[int, int, int]]  # (front block j, end block q, layer n)


@dataclass(frozen=True, kw_only=True)
class Stitch:
    """One change of anchors: block ``j`` of ``front``, then layer ``layer``, then block ``q`` of
    ``end``, in one stage.
    """

    front: int
    end: int
    stage: int
    j: int
    q: int
    layer: int

    @property
    def key(self) -> str:
        """Name of its stitching layer, which other stitches may share."""
        return f"a{self.front}-{self.end}_s{self.stage}_n{self.layer}"


@dataclass(frozen=True, kw_only=True)
class StitchConfig:
    """One route through the anchors, always from a smaller to a larger one.

    Attributes:
        anchors: indices of the anchors it runs through.
        stage: the stage in which it changes anchors; ``None`` where it does not.
        routes: for each anchor, its half-open range of blocks in that stage.
        stitch_layers: for each change, the number of the stitching layer between these two anchors
            in that stage.
    """

    anchors: tuple[int, ...]
    stage: int | None = None
    routes: tuple[tuple[int, int], ...] = ()
    stitch_layers: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Short text, unique within a stitched net: ``a1``, ``a0-1.s0.3-4`` (stage 0, blocks ..3,
        then 4..).
        """
        anchors = "-".join(map(str, self.anchors))
        if self.stage is None:
            return f"a{anchors}"
        cuts = (f"{f[1] - 1}-{e[0]}" for f, e in itertools.pairwise(self.routes))
        return f"a{anchors}.s{self.stage}.{'.'.join(cuts)}"

    @property
    def stitches(self) -> tuple[Stitch, ...]:
        """The changes of anchors, in order; none for an anchor alone."""
        if self.stage is None:
            return ()
        joints = zip(
            itertools.pairwise(self.anchors),
            itertools.pairwise(self.routes),
            self.stitch_layers,
            strict=True,
        )
        return tuple(
            Stitch(front=f, end=e, stage=self.stage, j=before[1] - 1, q=after[0], layer=n)
            for (f, e), (before, after), n in joints
        )


def paired_stitches(
    depth: int, kernel_size: int = 2, stride: int = 1, *, forward: bool = False
) -> Stitches:
    """Stitches between two stages of equal depth.

    Windows {i, ..., min(i + kernel_size, depth) - 1} start at 0, stride, 2 * stride, ...; every
    ordered pair (j, q) of a window that no earlier window had is a stitch, and the new pairs of one
    window share a layer.

    Args:
        depth: number of blocks, at least 1.
        kernel_size: length of a window, at least 1.
        stride: distance of windows, at least 1.
        forward: keep only j < q, as hierarchical nets do.

    Example:
        >>> len(paired_stitches(12)), paired_stitches(12)[-1]
        (34, (11, 11, 10))
    """
    seen: set[tuple[int, int]] = set()
    stitches: Stitches = []
    layer = 0
    for start in range(0, depth, stride):
        window = range(start, min(start + kernel_size, depth))
        new = [
            p
            for p in itertools.product(window, window)
            if p not in seen and (p[0] < p[1] or not forward)
        ]
        stitches += [(j, q, layer) for j, q in new]
        seen.update(new)
        layer += bool(new)
    return stitches


def unpaired_stitches(front: int, end: int) -> Stitches:
    """Stitches between stages of unequal depth: block e of the deeper follows block floor(e * front
    / end), if that is before e.

    Example:
        >>> unpaired_stitches(2, 6)
        [(0, 1, 0), (0, 2, 0), (1, 3, 1), (1, 4, 1), (1, 5, 1)]
    """
    pairs = [(e * front // end, e) for e in range(end)]
    return [(j, e, j) for j, e in pairs if e > j]


def enumerate_configs(
    depths: Sequence[Sequence[int]],
    *,
    kernel_size: int = 2,
    stride: int = 1,
    nearest: bool = True,
    stages: Sequence[int] | None = None,
) -> list[StitchConfig]:
    """Every configuration: the anchors, then the stitches pair by pair and stage by stage.

    Args:
        depths: blocks in each stage of each anchor, small to large.
        kernel_size: window length of paired stitching.
        stride: window distance of paired stitching.
        nearest: stitch neighbouring anchors only; otherwise all pairs, and routes through three or
            more anchors of one stage.
        stages: stages in which to stitch; default: the only one, or all but the last.

    Raises:
        FamilyError: the settings or the depths are illegal.
    """
    _validate(depths, kernel_size, stride)
    count = len(depths[0])
    chosen = range(max(count - 1, 1)) if stages is None else stages
    configs = [StitchConfig(anchors=(i,)) for i in range(len(depths))]
    for stage in chosen:
        if not 0 <= stage < count:
            raise FamilyError(f"There is no stage {stage}; choose among 0 to {count - 1}.")
    for length in range(2, 3 if nearest else len(depths) + 1):
        for anchors in itertools.combinations(range(len(depths)), length):
            if nearest and anchors[1] != anchors[0] + 1:
                continue
            for stage in chosen:
                levels = [depths[a][stage] for a in anchors]
                configs += _routes(anchors, stage, levels, kernel_size, stride, plain=count == 1)
    return configs


def _routes(
    anchors: tuple[int, ...],
    stage: int,
    depths: list[int],
    kernel_size: int,
    stride: int,
    *,
    plain: bool,
) -> list[StitchConfig]:
    per_pair = [
        paired_stitches(f, kernel_size, stride, forward=not plain)
        if f == e
        else unpaired_stitches(f, e)
        for f, e in itertools.pairwise(depths)
    ]
    configs = []
    for chain in itertools.product(*per_pair):
        starts = [0, *(q for _, q, _ in chain)]
        stops = [*(j + 1 for j, _, _ in chain), depths[-1]]
        if all(start < stop for start, stop in zip(starts, stops, strict=True)):
            routes, layers = tuple(zip(starts, stops, strict=True)), tuple(n for _, _, n in chain)
            configs.append(
                StitchConfig(anchors=anchors, stage=stage, routes=routes, stitch_layers=layers)
            )
    return configs


def _validate(depths: Sequence[Sequence[int]], kernel_size: int, stride: int) -> None:
    if kernel_size < 1 or stride < 1:
        raise FamilyError(
            f"Stitching needs kernel_size and stride of at least 1, got {kernel_size} and {stride}."
        )
    if stride > kernel_size:
        warnings.warn(
            f"Stitching windows of {kernel_size} blocks at every {stride} leave blocks between "
            "them "
            "that are never stitched; use a stride of at most kernel_size.",
            stacklevel=3,
        )
    if len({len(d) for d in depths}) != 1:
        raise FamilyError(
            f"The models have {', '.join(str(len(d)) for d in depths)} stages; stitch models with "
            "the same number of stages."
        )
    if any(block < 1 for d in depths for block in d):
        raise FamilyError(
            "A model has a stage without blocks; name other blocks with Split(blocks=...)."
        )
