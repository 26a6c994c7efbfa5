"""Which model takes which denoising step: exact arithmetic on fractions, steps and timesteps.

Source: Pan et al., T-Stitch, arXiv 2402.14167. The official code has five rules that differ at the
    boundaries; here boundaries are the rounded cumulated fractions, as integers. Deviation: a
    boundary that falls midway between two steps goes to the earlier one, so that the larger model
    gets the step (``(i + 1) / S <= r`` in the official code does the same).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from sartor.core.errors import BudgetError, RecipeError

__all__ = [
    "allocations_within",
    "check_fractions",
    "fraction_grid",
    "predicted_time",
    "step_allocation",
    "step_boundaries",
    "step_numbers",
    "timestep_allocation",
]

#: how far the sum of fractions may lie from 1
TOLERANCE = 1e-6
#: fractions are read as ratios with at most this denominator, so that 0.1 + 0.2 is 0.3
DENOMINATOR = 10**6
#: relative error of a sum of float seconds that is no reason to refuse an allocation
ROUNDING = 1e-9


def check_fractions(fractions: Sequence[float], num_models: int) -> tuple[float, ...]:
    """Check shares of a trajectory.

    Args:
        fractions: one a model, from the smallest to the largest model, at least 0, with sum 1.
        num_models: how many models there are.

    Raises:
        RecipeError: a fraction is negative or not finite, their sum is not 1 within 1e-6, or there
            are not as many as models.
    """
    given = tuple(float(fraction) for fraction in fractions)
    if len(given) != num_models:
        raise RecipeError(
            f"There are {num_models} models and {len(given)} fractions; give one fraction a model."
        )
    total = math.fsum(given)
    if not all(0 <= fraction < math.inf for fraction in given) or abs(total - 1) > TOLERANCE:
        raise RecipeError(
            f"Fractions must be at least 0 and sum to 1, got {list(given)} with sum {total:g}."
        )
    return given


@lru_cache(maxsize=256)
def _cumulated(fractions: tuple[float, ...]) -> tuple[Fraction, ...]:
    """Exact cumulated fractions; the last is 1."""
    exact = [Fraction(fraction).limit_denominator(DENOMINATOR) for fraction in fractions]
    return (*list(itertools.accumulate(exact))[:-1], Fraction(1))


@lru_cache(maxsize=1024)
def step_boundaries(num_steps: int, fractions: tuple[float, ...]) -> tuple[int, ...]:
    """Number of steps done when each model has ended; the last is ``num_steps``.

    Args:
        num_steps: S, at least 1.
        fractions: checked ones.

    Raises:
        RecipeError: there is no step.

    Example:
        >>> step_boundaries(7, (0.3, 0.3, 0.4))
        (2, 4, 7)
    """
    if num_steps < 1:
        raise RecipeError(f"A trajectory has at least 1 step, got {num_steps}.")
    half = Fraction(1, 2)
    return tuple(min(math.ceil(c * num_steps - half), num_steps) for c in _cumulated(fractions))


def step_allocation(num_steps: int, fractions: Sequence[float]) -> list[int]:
    """Index of the model that takes each step, from noise to sample.

    Args:
        num_steps: S, at least 1.
        fractions: share of the steps of each model, smallest first; they sum to 1.

    Raises:
        RecipeError: there is no step, or the fractions are illegal.

    Example:
        >>> step_allocation(10, [0.4, 0.2, 0.4])
        [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    """
    ends = step_boundaries(num_steps, check_fractions(fractions, len(fractions)))
    return [bisect_right(ends, step) for step in range(num_steps)]


def timestep_allocation(
    timesteps: Sequence[float], fractions: Sequence[float], num_train_timesteps: int = 1000
) -> list[int]:
    """Index of the model at each timestep by its value, as the official code does for DiT.

    A model takes a timestep t if 1 - t / T is at most its cumulated fraction. For evenly spaced
    timesteps this equals :func:`step_allocation`; for others, such as Karras', it does not.

    Args:
        timesteps: in [0, T], in any order.
        fractions: share of the timesteps' range of each model, smallest first; they sum to 1.
        num_train_timesteps: T, at least 1.

    Raises:
        RecipeError: a timestep is out of range, or the fractions are illegal.

    Example:
        >>> timestep_allocation([999, 700, 300, 0], [0.4, 0.6])
        [0, 0, 1, 1]
    """
    checked = check_fractions(fractions, len(fractions))
    ends = [(end, k) for k, end in enumerate(_cumulated(checked)) if checked[k] > 0]
    for timestep in timesteps:
        if num_train_timesteps < 1 or not 0 <= timestep <= num_train_timesteps:
            raise RecipeError(
                f"The timestep {timestep} is not in [0, {num_train_timesteps}]; give the "
                "num_train_timesteps that the models were trained with."
            )
    progress = [1 - Fraction(t) / num_train_timesteps for t in timesteps]
    return [ends[bisect_left(ends, (p, 0))][1] for p in progress]


def step_numbers(timesteps: Sequence[float], order: int = 1) -> dict[float, int]:
    """Number of the step, from 0, to which each distinct timestep belongs.

    Solvers of second order list a timestep twice, or one between two steps; multistep solvers may
    repeat one to start. All calls at one timestep belong to one step.

    Args:
        timesteps: as a scheduler lists them, from noise to sample; not empty.
        order: calls of the model in one step of the solver, at least 1.

    Raises:
        RecipeError: there are no timesteps.

    Example:
        >>> step_numbers([999, 666, 666, 333, 333], order=2)  # Heun, three steps
        {999: 0, 666: 1, 333: 2}
    """
    if not len(timesteps):
        raise RecipeError("A trajectory has at least 1 step; give the scheduler's timesteps.")
    last = {timestep: position // order for position, timestep in enumerate(timesteps)}
    ranks = {number: rank for rank, number in enumerate(sorted(set(last.values())))}
    return {timestep: ranks[number] for timestep, number in last.items()}


def predicted_time(
    fractions: Sequence[float], seconds_per_step: Sequence[float], num_steps: int
) -> float:
    """Seconds of a trajectory: the sum over models of their steps times their seconds a step.

    Args:
        fractions: share of the steps of each model; they sum to 1.
        seconds_per_step: of each model, above 0.
        num_steps: S, at least 1.

    Raises:
        RecipeError: there is no step, fractions are illegal, or a time is not positive.

    Example:
        >>> round(predicted_time([0.4, 0.6], [0.016, 0.165], 100), 2)
        10.54
    """
    checked = check_fractions(fractions, len(seconds_per_step))
    if not all(0 < seconds < math.inf for seconds in seconds_per_step):
        raise RecipeError(f"Seconds a step must be above 0, got {list(seconds_per_step)}.")
    ends = step_boundaries(num_steps, checked)
    steps = (end - start for start, end in itertools.pairwise((0, *ends)))
    return math.fsum(n * s for n, s in zip(steps, seconds_per_step, strict=True))


def fraction_grid(num_models: int, grid: float = 0.1) -> list[tuple[float, ...]]:
    """Every vector of fractions on a grid, from the smallest model alone to the largest alone.

    Args:
        num_models: K, at least 1.
        grid: distance of the fractions; 1 must be a multiple of it.

    Returns:
        Vectors of K fractions with sum 1; the share of the smallest model falls.

    Raises:
        RecipeError: the grid does not divide 1, or there is no model.

    Example:
        >>> fraction_grid(2, 0.5)
        [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    """
    parts = round(1 / grid) if 0 < grid <= 1 else 0
    if num_models < 1 or not parts or abs(parts * grid - 1) > TOLERANCE:
        raise RecipeError(
            f"A grid of fractions takes at least one model and a distance that divides 1, such as "
            f"0.1, got {num_models} and {grid}."
        )
    counts = itertools.product(range(parts, -1, -1), repeat=num_models - 1)
    rows = [(*head, parts - sum(head)) for head in counts if sum(head) <= parts]
    return [tuple(n / parts for n in row) for row in rows]


def allocations_within(
    budget: float, seconds_per_step: Sequence[float], num_steps: int, grid: float = 0.1
) -> list[tuple[float, ...]]:
    """Fractions on a grid whose predicted time fits a budget, those that use most of it first.

    Among equal times, the larger share of the larger models comes first.

    Args:
        budget: seconds, above 0.
        seconds_per_step: of each model, smallest first, above 0.
        num_steps: S, at least 1.
        grid: distance of the fractions.

    Raises:
        BudgetError: not even the fastest fits.
        RecipeError: an argument is illegal.

    Example:
        >>> allocations_within(10.6, [0.016, 0.165], 100)[0]
        (0.4, 0.6)
    """
    rows = fraction_grid(len(seconds_per_step), grid)
    times = {row: predicted_time(row, seconds_per_step, num_steps) for row in rows}
    fitting = [row for row in rows if times[row] <= budget * (1 + ROUNDING)]
    if not fitting:
        raise BudgetError(
            f"No allocation fits {budget:g} s; the fastest takes {min(times.values()):g} s, so "
            "allow more or take fewer steps."
        )
    return sorted(fitting, key=lambda row: (times[row], row[::-1]), reverse=True)
