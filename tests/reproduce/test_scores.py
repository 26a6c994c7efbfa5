import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.reproduce.scores import hypervolume, r_squared, spearman

GRID = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=7)


def brute_force(points: list[tuple[int, int]], cost: int, quality: int) -> int:
    """Count the unit squares that some point dominates."""
    return sum(
        any(x <= left and y >= low + 1 for x, y in points)
        for left, low in itertools.product(range(cost), range(quality, 6))
    )


@given(GRID, st.integers(0, 6), st.integers(0, 6))
def test_hypervolume_against_counting_squares(
    points: list[tuple[int, int]], cost: int, quality: int
) -> None:
    wanted = brute_force(points, cost, quality)
    assert hypervolume(points, cost=cost, quality=quality) == wanted


def test_hypervolume_ignores_order_dominated_and_worthless_points() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (0.5, 0.1), (4.0, 0.9), (2.5, 0.8)]
    area = hypervolume(points, cost=3.0, quality=0.1)
    assert area == pytest.approx(1.5 * 0.4 + 0.5 * 0.7)
    random.Random(0).shuffle(points)
    assert hypervolume(points, cost=3.0, quality=0.1) == pytest.approx(area)
    assert hypervolume([], cost=1.0, quality=0.0) == 0


def test_spearman() -> None:
    assert spearman([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert spearman([1, 2, 3], [5, 5, 5]) == 0
    # ties get their mean rank: ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=9, unique=True))
def test_spearman_of_a_monotone_map_is_one(values: list[int]) -> None:
    assert spearman(values, [v**3 for v in values]) == pytest.approx(1)
    assert spearman(values, [-v for v in values]) == pytest.approx(-1)


def test_r_squared_against_the_residuals() -> None:
    numpy = pytest.importorskip("numpy")
    x, y = [0.0, 1.0, 2.0, 3.0], [1.0, 2.5, 2.0, 5.0]
    slope, start = numpy.polyfit(x, y, 1)
    left = sum((b - start - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    total = sum((b - sum(y) / 4) ** 2 for b in y)
    assert r_squared(x, y) == pytest.approx(1 - left / total)
    assert r_squared(x, [3.0] * 4) == r_squared([1.0] * 4, y) == 0
