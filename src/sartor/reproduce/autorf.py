"""AutoRF: does a searched cell of poolings give a net the receptive field that a task needs?

Two dots must be told near from far, farther apart than two 3 x 3 convolutions see. Beside the net
with a channel gate stand a cell without pooling, a random cell and a published one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from sartor.fit.threads import training_threads
from sartor.reproduce.autorf_training import (
    FULL,
    GATE,
    NOISE,
    PUBLISHED,
    QUICK,
    RANDOM,
    SEARCHED,
    Schedule,
    Trained,
    train_all,
)
from sartor.reproduce.evidence import Check, Evidence, Row

__all__ = ["judge", "losses", "run"]

SEEDS = (0, 1, 2)
#: the card's pass rules; "large" is a window of at least 5
BLIND, SEES, LARGE = 0.65, 0.90, 5


def run(quick: bool = False) -> Evidence:
    """Search, train and judge.

    Args:
        quick: one seed, few images and steps: a smoke test whose numbers mean little.
    """
    started = time.perf_counter()
    schedule, seeds = (QUICK, SEEDS[:1]) if quick else (FULL, SEEDS)
    with training_threads(params=0):
        results = [train_all(seed, schedule) for seed in seeds]
    checks = judge(results)
    return Evidence(
        slug="autorf",
        claim="A searched cell of poolings widens the receptive field of a net of 3 x 3 "
        "convolutions as far as its task needs.",
        measure="test accuracy, searched cell against the channel gate alone",
        baseline=_mean(results, GATE),
        measured=_mean(results, SEARCHED),
        checks=checks,
        tables={f"Two dots, distance {schedule.limit}": _rows(results)},
        losses=losses(results),
        notes=_notes(schedule),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def judge(results: Sequence[Mapping[str, Trained]]) -> tuple[Check, ...]:
    """The pass rules, then what is reported either way."""
    large = min(sum(w >= LARGE for w in result[SEARCHED].windows) for result in results)
    return (
        _check(results, GATE, "<=", BLIND),
        _check(results, NOISE, "<=", BLIND),
        _check(results, SEARCHED, ">=", SEES),
        Check(
            asked=f"windows of at least {LARGE} in the searched cell, fewest of a seed",
            measured=large,
            limit=1,
        ),
        Check(
            asked="accuracy, searched minus random cell (control)",
            measured=_mean(results, SEARCHED) - _mean(results, RANDOM),
            limit=0.0,
            decides=False,
        ),
        Check(
            asked="accuracy, searched minus published cell",
            measured=_mean(results, SEARCHED) - _mean(results, PUBLISHED),
            limit=0.0,
            decides=False,
        ),
    )


def losses(results: Sequence[Mapping[str, Trained]]) -> tuple[str, ...]:
    """What the search costs."""
    seconds = {n: _mean(results, n, lambda t: t.seconds) for n in (GATE, SEARCHED)}
    return (
        f"Search and training take {seconds[SEARCHED] / seconds[GATE]:.1f} times the CPU seconds "
        "of the net with a channel gate.",
    )


def _check(
    results: Sequence[Mapping[str, Trained]], name: str, relation: str, rule: float
) -> Check:
    return Check(
        asked=f"accuracy, {name}", measured=_mean(results, name), limit=rule, relation=relation
    )


def _rows(results: Sequence[Mapping[str, Trained]]) -> list[Row]:
    rows: list[Row] = []
    for name in results[0]:
        made = [result[name] for result in results]
        row: dict[str, str | int | float] = {"net": name, "parameters": made[0].params}
        for number, one in enumerate(made):
            row[f"seed {number}"] = round(one.accuracy, 3)
        row["mean"] = round(statistics.mean(one.accuracy for one in made), 4)
        row["windows"] = "; ".join(" ".join(map(str, one.windows)) for one in made if one.windows)
        row["CPU seconds"] = round(statistics.mean(one.seconds for one in made), 1)
        rows.append(row)
    return rows


def _notes(schedule: Schedule) -> tuple[str, ...]:
    return (
        f"Generated images of 16 x 16 pixels; {schedule.images} train weights, as many others the "
        f"mixtures for {schedule.search_steps} steps, 1000 test. Every cell is trained from "
        f"scratch for {schedule.epochs} epochs; rates are not tuned here.",
        "Near dots are at most the distance apart, far ones 1 or 2 more.",
        "Not shown: accuracy on CIFAR or ImageNet, and any comparison with CBAM or SPP.",
    )


def _mean(
    results: Sequence[Mapping[str, Trained]],
    name: str,
    of: Callable[[Trained], float] = lambda trained: trained.accuracy,
) -> float:
    return statistics.mean(of(result[name]) for result in results)
