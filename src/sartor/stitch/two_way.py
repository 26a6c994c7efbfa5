"""Which routes exist when two anchors hand over in both directions.

Source: Pan, Liu, He, Cai, Zhuang, 2024, arXiv 2307.00154, section 3. Deviations: the official code
    leaves out the stitch after the small anchor's block 11, whatever the depth; here it is the one
    after its last block. The code knows ratios of depths of 1 and 2; here any whole ratio, and
    others on request.
"""

from __future__ import annotations

from collections.abc import Sequence

from sartor.core.errors import FamilyError, nearest
from sartor.stitch.plan import Stitch, StitchConfig

__all__ = ["KINDS", "check_depths", "enumerate_two_way", "last_block_stitch", "small_block"]

#: kinds of routes, in the order of the paper; s is the small anchor and l the large one
KINDS = ("sl", "ls", "lsl", "sls")

Cut = tuple[int, int]  # front block j, end block q


def enumerate_two_way(
    depth_small: int,
    depth_large: int,
    kinds: Sequence[str] = KINDS,
    *,
    last: bool = False,
    on_mismatch: str = "error",
) -> list[StitchConfig]:
    """Every configuration: the two anchors, then the kinds of routes, each in the order of the
    paper.

    A route changes anchors after small block i and before the first large block that stands for
    small block i + 1, or the other way round. Routes of three segments share the stitching layers
    of those of two.

    Args:
        depth_small: blocks of anchor 0, at least 2.
        depth_large: blocks of anchor 1, a multiple of ``depth_small``.
        kinds: some of ``sl``, ``ls``, ``lsl`` and ``sls``.
        last: also the route that runs the whole small anchor and no large block, as the published
            numbering does; no one trains or serves it.
        on_mismatch: what to do with other depths, as long as the large anchor is no shallower:
            ``error``, or ``adjust``, which hands over at the nearest blocks.

    Raises:
        FamilyError: the depths do not fit together, or a kind is unknown.

    Example:
        >>> configs = enumerate_two_way(12, 24)
        >>> len(configs), configs[2].routes, configs[-1].name
        (134, ((0, 1), (2, 24)), 'a0-1-0.s0.9-20.21-11')
    """
    check_depths(depth_small, depth_large, on_mismatch)
    for kind in kinds:
        if kind not in KINDS:
            raise FamilyError(f"There is no kind of route {kind!r}; {nearest(kind, KINDS)}")
    cuts = [(i, _entry(i, depth_small, depth_large)) for i in range(depth_small)]
    down = [(q - 1, i + 1) for i, q in cuts[:-1]]  # large block, small block
    up = cuts[:-1]  # small block, large block
    routes: dict[str, list[tuple[Cut, ...]]] = {
        "sl": [(cut,) for cut in (cuts if last else up)],
        "ls": [(cut,) for cut in down],
        "lsl": [(p, r) for p in down for r in up if r[0] >= p[1]],
        "sls": [(r, p) for r in up for p in down if p[0] >= r[1]],
    }
    depths = (depth_small, depth_large)
    configs = [StitchConfig(anchors=(0,)), StitchConfig(anchors=(1,))]
    for kind in KINDS:
        if kind in kinds:
            anchors = tuple("sl".index(letter) for letter in kind)
            configs += [_config(anchors, chain, depths) for chain in routes[kind]]
    return configs


def small_block(block: int, depth_small: int, depth_large: int) -> int:
    """The small anchor's block that stands for a block of the large one.

    Example:
        >>> [small_block(e, 12, 24) for e in (9, 14, 19, 23)]
        [4, 7, 9, 11]
    """
    return block * depth_small // depth_large


def last_block_stitch(depth_small: int, depth_large: int) -> Stitch:
    """From the small anchor's last block to the end of the large one: on no route, but what makes
    a feature of the small anchor's last block one of the large anchor's.
    """
    return Stitch(front=0, end=1, stage=0, j=depth_small - 1, q=depth_large, layer=depth_small - 1)


def check_depths(depth_small: int, depth_large: int, on_mismatch: str = "error") -> None:
    """Refuse depths between which no one can hand over.

    Raises:
        FamilyError: says which.
    """
    if on_mismatch not in ("error", "adjust"):
        raise FamilyError(f"on_mismatch is 'error' or 'adjust', got {on_mismatch!r}.")
    if depth_small < 2:
        raise FamilyError(
            f"Two-way stitching needs a small model of at least 2 blocks, got {depth_small}."
        )
    if depth_large < depth_small:
        raise FamilyError(
            f"The large model has {depth_large} blocks and the small one {depth_small}; give a "
            "large model that is at least as deep."
        )
    if depth_large % depth_small and on_mismatch == "error":
        raise FamilyError(
            f"The depths {depth_small} and {depth_large} are no multiples; give other models, or "
            "on_mismatch='adjust' to hand over at the nearest blocks."
        )


def _entry(block: int, depth_small: int, depth_large: int) -> int:
    """The first large block that stands for a later small block than ``block``."""
    return -(-(block + 1) * depth_large // depth_small)


def _config(
    anchors: tuple[int, ...], chain: Sequence[Cut], depths: tuple[int, int]
) -> StitchConfig:
    starts = [0, *(q for _, q in chain)]
    stops = [*(j + 1 for j, _ in chain), depths[anchors[-1]]]
    # a layer bears the number of the small block before the hand-over
    layers = (j if front == 0 else q - 1 for front, (j, q) in zip(anchors, chain, strict=False))
    return StitchConfig(
        anchors=anchors,
        stage=0,
        routes=tuple(zip(starts, stops, strict=True)),
        stitch_layers=tuple(layers),
    )
