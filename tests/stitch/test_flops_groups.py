import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core import FamilyError
from sartor.stitch.flops_groups import GroupedStitchSampler, group_by_flops, tilted_weights

DRAWS = 20_000
SIZES = (1, 4, 4, 4, 1)
GROUPS = [[10 * g + m for m in range(size)] for g, size in enumerate(SIZES)]


def chi_square(counts: list[int], shares: list[float]) -> float:
    total = sum(counts)
    return sum((c - total * s) ** 2 / (total * s) for c, s in zip(counts, shares, strict=True))


def test_a_group_is_measured_from_its_first_member() -> None:
    # each is within the gap of the one before, and not of the first
    assert group_by_flops({0: 0.0, 1: 0.8, 2: 1.6, 3: 2.4}, gap=1.0) == [[0, 1], [2, 3]]
    # a distance of exactly the gap opens no group
    assert group_by_flops({0: 0.0, 1: 1.0, 2: 1.001}, gap=1.0) == [[0, 1], [2]]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 20))
def test_groups_are_narrow_complete_and_apart(costs: list[int], gap: int) -> None:
    flops = dict(enumerate(costs))
    groups = group_by_flops(flops, gap)
    assert sorted(i for group in groups for i in group) == list(flops)
    for group in groups:
        assert max(flops[i] for i in group) - flops[group[0]] <= gap
    for group, following in itertools.pairwise(groups):
        assert flops[following[0]] - flops[group[0]] > gap


def test_draws_are_uniform_over_groups_and_within_them() -> None:
    sampler = GroupedStitchSampler(GROUPS, seed=0)
    drawn = [sampler(step) for step in range(DRAWS)]
    by_group = [sum(d // 10 == g for d in drawn) for g in range(len(SIZES))]
    # the 0.99 quantile of chi-square with 4 degrees of freedom is 13.277, with 3 it is 11.345
    assert chi_square(by_group, [0.2] * 5) < 13.277
    for number, group in enumerate(GROUPS):
        counts = [drawn.count(member) for member in group]
        assert sum(counts) == by_group[number]
        assert len(group) == 1 or chi_square(counts, [0.25] * 4) < 11.345


def test_weights_tilt_the_draws() -> None:
    weights = tilted_weights(5, k=10)
    # by hand: i / 10 + 1 / 5, over their sum of 2
    assert weights == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3])
    sampler = GroupedStitchSampler(GROUPS, weights, seed=1)
    counts = [0] * 5
    for step in range(DRAWS):
        counts[sampler(step) // 10] += 1
    assert chi_square(counts, weights) < 13.277
    assert math.fsum(tilted_weights(13, 3.0)) == pytest.approx(1)


def test_a_group_of_no_weight_is_never_drawn() -> None:
    for weights in ([0, 1, 0], [1, 0, 0], [0, 0, 1]):
        sampler = GroupedStitchSampler([[0], [1], [2]], weights)
        assert {sampler(step) for step in range(200)} == {weights.index(1)}


def test_a_draw_follows_seed_and_step_alone() -> None:
    forward = [GroupedStitchSampler(GROUPS, seed=3)(step) for step in range(50)]
    sampler = GroupedStitchSampler(GROUPS, seed=3)
    assert [sampler(step) for step in reversed(range(50))] == forward[::-1]
    assert [GroupedStitchSampler(GROUPS, seed=4)(step) for step in range(50)] != forward


@pytest.mark.parametrize("gap", [0.0, -1.0, math.nan])
def test_gaps_are_above_zero(gap: float) -> None:
    with pytest.raises(FamilyError, match="must be above 0"):
        group_by_flops({0: 1.0}, gap)


def test_refusals() -> None:
    with pytest.raises(FamilyError, match="no configuration to group"):
        group_by_flops({}, 1.0)
    for groups in ([], [[0], []]):
        with pytest.raises(FamilyError, match=r"no groups.*first, with group_by_flops"):
            GroupedStitchSampler(groups)
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(FamilyError, match="2 groups need 2 weights"):
            GroupedStitchSampler([[0], [1]], weights)
    for count, k in ((0, 1.0), (2, 0.0)):
        with pytest.raises(FamilyError, match="at least 1 group and k above 0"):
            tilted_weights(count, k)
