import itertools
from collections import Counter
from dataclasses import dataclass

import pytest

from sartor.core import FamilyError
from sartor.stitch.flops_groups import group_by_flops
from sartor.stitch.plan import StitchConfig
from sartor.stitch.two_way import (
    check_depths,
    enumerate_two_way,
    last_block_stitch,
    small_block,
)

TOKENS, WIDTHS = 197, (384, 1024)


@dataclass(frozen=True)
class Count:
    depths: tuple[int, int]
    configs: int  # as published, with the one that is left out
    layers: tuple[int, int]
    three: int  # of each kind with three segments

    def __str__(self) -> str:
        return "-".join(map(str, self.depths))


COUNTS = (
    Count((12, 24), 135, (12, 11), 55),
    Count((12, 12), 135, (12, 11), 55),
    Count((4, 8), 15, (4, 3), 3),
    Count((4, 4), 15, (4, 3), 3),
    Count((6, 12), 33, (6, 5), 10),
    Count((3, 6), 9, (3, 2), 1),
)


def kind(config: StitchConfig) -> str:
    return "".join("sl"[anchor] for anchor in config.anchors)


@pytest.mark.parametrize("row", COUNTS, ids=str)
def test_counts(row: Count) -> None:
    published = enumerate_two_way(*row.depths, last=True)
    usable = enumerate_two_way(*row.depths)
    assert len(published) == row.configs and len(usable) == row.configs - 1
    assert [c for c in published if c in usable] == usable
    counts, short = Counter(map(kind, usable)), row.depths[0] - 1
    assert counts == {"s": 1, "l": 1, "sl": short, "ls": short, "lsl": row.three, "sls": row.three}
    layers = {(s.front, s.layer) for c in published for s in c.stitches}
    assert tuple(sum(front == a for front, _ in layers) for a in (0, 1)) == row.layers
    assert len({c.name for c in usable}) == len(usable)
    # every stitching layer joins one pair of positions, whatever routes share it
    positions = {(s.key, s.j, s.q) for c in published for s in c.stitches}
    assert len(positions) == len(layers)


def test_the_published_numbers_and_their_routes() -> None:
    configs = enumerate_two_way(12, 24, last=True)
    routes = {
        2: ((0, 1), (2, 24)),
        3: ((0, 2), (4, 24)),
        12: ((0, 11), (22, 24)),
        13: ((0, 12), (24, 24)),
        14: ((0, 2), (1, 12)),
        15: ((0, 4), (2, 12)),
        24: ((0, 22), (11, 12)),
        25: ((0, 2), (1, 2), (4, 24)),
        79: ((0, 20), (10, 11), (22, 24)),
        80: ((0, 1), (2, 4), (2, 12)),
        134: ((0, 10), (20, 22), (11, 12)),
    }
    assert {n: configs[n].routes for n in routes} == routes
    assert configs[2].anchors == (0, 1) and configs[14].anchors == (1, 0)
    assert configs[25].anchors == (1, 0, 1) and configs[80].anchors == (0, 1, 0)
    assert configs[2].stitch_layers == configs[14].stitch_layers == (0,)
    assert configs[134].stitch_layers == (9, 10) and configs[79].stitch_layers == (9, 10)


def published_flops(config: StitchConfig) -> int:
    """The formula of the released files: multiply-accumulates, 5 for each element of a norm."""
    widths = [WIDTHS[a] for a in config.anchors]
    segments = config.routes or ((0, (12, 24)[config.anchors[0]]),)
    total = 196 * 768 * widths[0] + (5 * TOKENS + 1000) * widths[-1]
    for width, (start, stop) in zip(widths, segments, strict=True):
        block = 12 * TOKENS * width**2 + 2 * TOKENS**2 * width + 10 * TOKENS * width
        total += (stop - start) * block
    return total + sum(TOKENS * a * b for a, b in itertools.pairwise(widths))


def test_flops_of_the_released_configurations() -> None:
    configs = enumerate_two_way(12, 24, last=True)
    exact = {
        0: 4_608_338_304,
        1: 61_604_135_936,
        2: 56_843_745_792,
        3: 52_102_230_016,
        14: 9_523_655_552,
        134: 9_504_781_184,
    }
    assert {n: published_flops(configs[n]) for n in exact} == exact
    rounded = {15: 14.27, 127: 18.99, 123: 23.73, 118: 28.47, 6: 37.88, 4: 47.36, 3: 52.10}
    assert {n: round(published_flops(configs[n]) / 1e9, 2) for n in rounded} == rounded


def test_groups_of_the_released_configurations() -> None:
    usable = enumerate_two_way(12, 24)
    flops = {i: published_flops(c) / 1e9 for i, c in enumerate(usable)}
    groups = group_by_flops(flops, gap=1.0)
    assert [len(group) for group in groups] == [1, *[12] * 11, 1]
    assert groups[0] == [0] and groups[-1] == [1]


def test_taps_of_the_small_anchor() -> None:
    assert [small_block(e, 12, 24) for e in (9, 14, 19, 23)] == [4, 7, 9, 11]
    assert [small_block(e, 12, 24) for e in (5, 11, 17, 23)] == [2, 5, 8, 11]


def test_kinds_can_be_chosen() -> None:
    one_way = enumerate_two_way(4, 4, ("sl",))
    assert [c.name for c in one_way] == ["a0", "a1", *(f"a0-1.s0.{i}-{i + 1}" for i in range(3))]
    assert len(enumerate_two_way(4, 4)) >= 1.5 * len(one_way)
    # the order is the paper's, whatever order the kinds are named in
    assert enumerate_two_way(4, 4, ("sls", "ls", "lsl", "sl")) == enumerate_two_way(4, 4)
    assert set(one_way) < set(enumerate_two_way(4, 4))


def test_the_layer_that_no_route_has() -> None:
    stitch = last_block_stitch(12, 24)
    (excluded,) = set(enumerate_two_way(12, 24, last=True)) - set(enumerate_two_way(12, 24))
    assert excluded.stitches == (stitch,) and stitch.key == "a0-1_s0_n11"


@pytest.mark.parametrize("depths", [(4, 6), (5, 7), (3, 4), (12, 32)])
def test_adjusted_depths_hand_over_at_the_nearest_blocks(depths: tuple[int, int]) -> None:
    configs = enumerate_two_way(*depths, on_mismatch="adjust")
    assert len({c.name for c in configs}) == len(configs)
    for config in configs[2:]:
        assert all(start < stop for start, stop in config.routes)
        # what follows is the block that stands for the next one
        for stitch in config.stitches:
            small, large = (stitch.j, stitch.q) if stitch.front == 0 else (stitch.q, stitch.j)
            if stitch.front == 0:
                assert small_block(large, *depths) == small + 1
                assert small_block(large - 1, *depths) == small
            else:
                assert small_block(large, *depths) == small - 1
                assert small_block(large + 1, *depths) == small


@pytest.mark.parametrize(
    ("depths", "options", "message"),
    [
        ((4, 6), {}, "4 and 6 are no multiples; .* on_mismatch='adjust'"),
        ((6, 4), {"on_mismatch": "adjust"}, "has 4 blocks and the small one 6"),
        ((1, 4), {}, "at least 2 blocks, got 1"),
        ((4, 4), {"on_mismatch": "skip"}, "'error' or 'adjust', got 'skip'"),
        ((4, 4), {"kinds": ("sl", "lss")}, "no kind of route 'lss'; did you mean"),
    ],
)
def test_refusals(depths: tuple[int, int], options: dict, message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        enumerate_two_way(*depths, **options)


def test_depths_that_fit_are_taken() -> None:
    check_depths(2, 2)
    check_depths(4, 6, "adjust")
