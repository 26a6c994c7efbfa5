import random
from fractions import Fraction

import pytest

from sartor.core import BudgetError, RecipeError
from sartor.nn.t_stitch.ddim import respaced_timesteps
from sartor.stitch.t_stitch.trajectory import (
    allocations_within,
    check_fractions,
    fraction_grid,
    predicted_time,
    step_allocation,
    step_boundaries,
    step_numbers,
    timestep_allocation,
)

SHARES = (0.0, 0.1, 0.3, 0.4, 0.5, 0.9, 1.0)


def small_steps(allocation: list[int]) -> int:
    assert allocation == sorted(allocation)
    return allocation.count(0)


# --- the card's figures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_steps", "wanted"),
    [
        (10, [0, 1, 3, 4, 5, 9, 10]),
        (50, [0, 5, 15, 20, 25, 45, 50]),
        (100, [0, 10, 30, 40, 50, 90, 100]),
    ],
)
def test_small_steps_by_both_rules(num_steps: int, wanted: list[int]) -> None:
    timesteps = respaced_timesteps(num_steps)
    for share, count in zip(SHARES, wanted, strict=True):
        fractions = [share, 1 - share]
        assert small_steps(step_allocation(num_steps, fractions)) == count
        assert small_steps(timestep_allocation(timesteps, fractions)) == count


def test_the_steps_of_three_models() -> None:
    assert step_allocation(10, [0.4, 0.2, 0.4]) == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert step_boundaries(7, (0.3, 0.3, 0.4)) == (2, 4, 7)


def test_predicted_seconds() -> None:
    assert predicted_time([0.4, 0.6], [0.016, 0.165], 100) == pytest.approx(10.54)
    assert 16.5 / predicted_time([0.4, 0.6], [0.016, 0.165], 100) == pytest.approx(1.565, abs=5e-4)
    assert predicted_time([0.4, 0.6], [0.029, 0.071], 100) == pytest.approx(5.42)


# --- exact arithmetic ---------------------------------------------------------------------------


def test_the_index_rule_of_the_official_code() -> None:
    """(i + 1) / S <= r, in exact arithmetic, wherever r S is whole."""
    for num_steps in (4, 10, 20, 50, 100):
        for small in range(num_steps + 1):
            share = Fraction(small, num_steps)
            wanted = sum(Fraction(i + 1, num_steps) <= share for i in range(num_steps))
            assert small_steps(step_allocation(num_steps, [float(share), float(1 - share)])) == (
                wanted
            )


def test_float_grids_do_not_shift_boundaries() -> None:
    share = 0.1 + 0.2  # 0.30000000000000004
    assert step_allocation(10, [share, 1 - share]).count(0) == 3
    thirds = [1 / 3, 1 / 3, 1 / 3]
    assert step_boundaries(9, tuple(thirds)) == (3, 6, 9)
    tenths = [0.1] * 10  # their float sum is 0.9999999999999999
    assert step_allocation(10, tenths) == list(range(10))
    assert timestep_allocation([0.0], tenths) == [9]


def test_a_boundary_midway_gives_the_step_to_the_larger_model() -> None:
    assert step_boundaries(5, (0.5, 0.5)) == (2, 5)
    assert step_boundaries(1, (0.5, 0.5)) == (0, 1)


def test_any_fractions_cover_every_step_once() -> None:
    draw = random.Random(0)
    for _ in range(300):
        weights = [draw.random() for _ in range(draw.randint(1, 5))]
        fractions = [w / sum(weights) for w in weights]
        num_steps = draw.randint(1, 60)
        allocation = step_allocation(num_steps, fractions)
        assert len(allocation) == num_steps and allocation == sorted(allocation)
        for model, fraction in enumerate(fractions):
            assert abs(allocation.count(model) - fraction * num_steps) <= 1 + 1e-6


def test_timestep_rule_on_uneven_timesteps() -> None:
    timesteps = [999.0, 990.0, 950.0, 600.0, 100.0, 1.0]
    assert timestep_allocation(timesteps, [0.4, 0.6]) == [0, 0, 0, 0, 1, 1]
    assert step_allocation(6, [0.4, 0.6]) == [0, 0, 1, 1, 1, 1]
    # a model without a share gets nothing, even where its cumulated share is reached exactly
    assert timestep_allocation([1000, 600, 500], [0.0, 0.4, 0.6]) == [1, 1, 2]


# --- solvers ------------------------------------------------------------------------------------


def test_steps_of_solvers_that_repeat_timesteps() -> None:
    assert step_numbers([9, 5, 1]) == {9: 0, 5: 1, 1: 2}
    assert step_numbers([9, 5, 5, 1, 1], order=2) == {9: 0, 5: 1, 1: 2}  # Heun
    assert step_numbers([9, 7, 5, 3, 1], order=2) == {9: 0, 7: 0, 5: 1, 3: 1, 1: 2}  # KDPM2
    assert step_numbers([9, 5, 5, 1]) == {9: 0, 5: 1, 1: 2}  # pseudo linear multistep


# --- choosing -----------------------------------------------------------------------------------


def test_grids() -> None:
    assert len(fraction_grid(2)) == 11 and len(fraction_grid(3)) == 66
    assert fraction_grid(3, 0.5)[0] == (1, 0, 0) and fraction_grid(3, 0.5)[-1] == (0, 0, 1)
    assert fraction_grid(1) == [(1.0,)]
    assert all(check_fractions(row, 3) == row for row in fraction_grid(3))
    assert (0.3, 0.7) in fraction_grid(2)


def test_allocations_within_a_budget() -> None:
    found = allocations_within(10.54, [0.016, 0.165], 100)
    assert found[0] == (0.4, 0.6) and found[-1] == (1.0, 0.0) and len(found) == 7
    # of equal times, the largest model gets more
    tied = allocations_within(2.0, [1.0, 2.0, 3.0], 1, grid=1.0)
    assert tied == [(0, 1, 0), (1, 0, 0)]
    found = allocations_within(4.0, [1.0, 2.0, 3.0], 2, grid=0.5)
    assert found[:2] == [(0.5, 0, 0.5), (0, 1, 0)]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ([0.5, 0.6], "sum 1.1"),
        ([-0.1, 1.1], "at least 0"),
        ([0.5, 0.5 - 1e-5], "sum to 1"),
        ([float("nan"), 1.0], "at least 0"),
        ([0.2, 0.3, 0.5], "2 models and 3 fractions"),
        ([], "2 models and 0 fractions"),
    ],
)
def test_illegal_fractions(fractions: list[float], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        check_fractions(fractions, 2)


def test_a_sum_within_a_millionth_is_one() -> None:
    assert step_allocation(4, [0.25, 0.75 - 5e-7]) == [0, 1, 1, 1]


def test_illegal_numbers() -> None:
    with pytest.raises(RecipeError, match="at least 1 step, got 0"):
        step_allocation(0, [0.5, 0.5])
    with pytest.raises(RecipeError, match="at least 1 step"):
        step_numbers([])
    with pytest.raises(RecipeError, match=r"1001 is not in \[0, 1000\]"):
        timestep_allocation([1001], [1.0])
    with pytest.raises(RecipeError, match="divides 1"):
        fraction_grid(2, 0.3)
    with pytest.raises(RecipeError, match="above 0"):
        predicted_time([1.0], [0.0], 10)
    with pytest.raises(BudgetError, match=r"the fastest takes 1\.6 s"):
        allocations_within(1.0, [0.016, 0.165], 100)
