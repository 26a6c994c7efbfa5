from dataclasses import dataclass

import pytest

from sartor.core import FamilyError
from sartor.stitch import enumerate_configs
from sartor.stitch.plan import paired_stitches, unpaired_stitches


@dataclass(frozen=True)
class Count:
    depth: int
    kernel_size: int
    stride: int
    stitches: int
    layers: int

    def __str__(self) -> str:
        return f"d{self.depth}k{self.kernel_size}s{self.stride}"


COUNTS = (
    Count(12, 1, 1, 12, 12),
    Count(12, 2, 1, 34, 11),
    Count(12, 2, 2, 24, 6),
    Count(12, 3, 1, 54, 10),
    Count(12, 3, 3, 36, 4),
    Count(12, 4, 1, 72, 9),
    Count(12, 4, 2, 64, 5),
    Count(12, 4, 4, 48, 3),
    Count(4, 2, 1, 10, 3),
    Count(4, 2, 2, 8, 2),
    Count(6, 2, 1, 16, 5),
)


@pytest.mark.parametrize("row", COUNTS, ids=str)
def test_paired_counts(row: Count) -> None:
    stitches = paired_stitches(row.depth, row.kernel_size, row.stride)
    assert len(stitches) == len(set(stitches)) == row.stitches
    assert {n for _, _, n in stitches} == set(range(row.layers))


def test_paired_order_and_layers() -> None:
    order = "000 010 100 110 121 211 221 232 322 332"
    assert paired_stitches(4) == [tuple(map(int, word)) for word in order.split()]


def test_hierarchical_pairs_go_forward() -> None:
    assert paired_stitches(2, forward=True) == [(0, 1, 0)]
    assert paired_stitches(4, 3, forward=True) == [
        (0, 1, 0),
        (0, 2, 0),
        (1, 2, 0),
        (1, 3, 1),
        (2, 3, 1),
    ]
    assert paired_stitches(1, forward=True) == []


@pytest.mark.parametrize(("front", "end", "count"), [(2, 6, 5), (6, 18, 17), (12, 24, 23)])
def test_unpaired_counts(front: int, end: int, count: int) -> None:
    stitches = unpaired_stitches(front, end)
    assert len(stitches) == count
    assert all(j == n == q * front // end and q > j for j, q, n in stitches)


def test_unpaired_order() -> None:
    assert [(j, q) for j, q, _ in unpaired_stitches(2, 6)] == [
        (0, 1),
        (0, 2),
        (1, 3),
        (1, 4),
        (1, 5),
    ]
    assert unpaired_stitches(6, 2) == []


def test_three_anchors_of_twelve_blocks() -> None:
    depths = [(12,)] * 3
    nearest = enumerate_configs(depths)
    assert len(nearest) == 71 and len({c.name for c in nearest}) == 71
    everything = enumerate_configs(depths, nearest=False)
    assert len(everything) == 732 and len({c.name for c in everything}) == 732
    assert sum(len(c.anchors) == 3 for c in everything) == 627
    assert everything[0].anchors == (0,) and [c.anchors for c in everything[:3]] == [
        (0,),
        (1,),
        (2,),
    ]


@dataclass(frozen=True)
class Hierarchy:
    name: str
    depths: tuple[tuple[int, ...], ...]
    stages: tuple[int, ...]
    count: int


HIERARCHIES = (
    Hierarchy("swin-tsb", ((2, 2, 6, 2), (2, 2, 18, 2), (2, 2, 18, 2)), (0, 1, 2), 41),
    Hierarchy("levit", ((4, 4, 4), (4, 4, 4)), (0, 1), 8),
    Hierarchy("resnet-18-50", ((2, 2, 2, 2), (3, 4, 6, 3)), (1, 2), 10),
    Hierarchy("resnet-18-swin-t", ((2, 2, 2, 2), (2, 2, 6, 2)), (1, 2), 8),
)


@pytest.mark.parametrize("row", HIERARCHIES, ids=lambda row: row.name)
def test_hierarchies(row: Hierarchy) -> None:
    configs = enumerate_configs(row.depths, stages=row.stages)
    assert len(configs) == row.count
    assert all(c.stage in row.stages for c in configs[len(row.depths) :])


def test_routes_and_names() -> None:
    config = enumerate_configs([(4,), (4,)])[5]
    assert (config.anchors, config.stage, config.routes) == ((0, 1), 0, ((0, 2), (1, 4)))
    assert config.name == "a0-1.s0.1-1" and config.stitch_layers == (0,)
    (stitch,) = config.stitches
    assert (stitch.front, stitch.end, stitch.j, stitch.q) == (0, 1, 1, 1)
    assert stitch.key == "a0-1_s0_n0"
    assert enumerate_configs([(4,)])[0].stitches == ()


def test_a_block_of_the_middle_anchor_always_runs() -> None:
    for config in enumerate_configs([(6,)] * 3, nearest=False, kernel_size=3):
        assert all(start < stop for start, stop in config.routes)


@pytest.mark.parametrize(
    ("depths", "settings", "message"),
    [
        ([(4,), (4, 2)], {}, "have 1, 2 stages; stitch models with the same number"),
        ([(4,), (0,)], {}, "stage without blocks"),
        ([(4,), (4,)], {"kernel_size": 0}, "at least 1, got 0 and 1"),
        ([(4,), (4,)], {"stride": 0}, "at least 1, got 2 and 0"),
        ([(4,), (4,)], {"stages": (1,)}, "no stage 1; choose among 0 to 0"),
        ([(4,), (4,)], {"stages": (-1,)}, "no stage -1"),
    ],
)
def test_refusals(depths: list[tuple[int, ...]], settings: dict, message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        enumerate_configs(depths, **settings)


def test_windows_that_leave_gaps_are_told() -> None:
    with pytest.warns(UserWarning, match="stride of at most kernel_size"):
        configs = enumerate_configs([(4,), (4,)], kernel_size=1, stride=2)
    assert len(configs) == 4  # two anchors, and the stitches of blocks 0 and 2
