"""Meta-Pooling: does the search find the receptive field that a task needs?

Two dots must be told near from far; the distance sets how far a net has to see. Beside the plain
net stands one with the same norm and activation but no pooling.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.meta_pooling_training import (
    FULL,
    META,
    NEUTRAL,
    PLAIN,
    QUICK,
    Schedule,
    Trained,
    train_all,
)
from sartor.reproduce.over_seeds import columns, gain, mean

__all__ = ["judge", "losses", "run"]

SEEDS = (0, 1, 2)
#: the card's pass rules: plain nets see dots that are near, not those that are far
BLIND, SEES = 0.60, 0.95
Results = Sequence[Mapping[tuple[str, int], Trained]]


def run(quick: bool = False) -> Evidence:
    """Train, search and judge.

    Args:
        quick: one seed, few images, the shortest distance: a smoke test whose numbers mean little.
    """
    started = time.perf_counter()
    schedule, seeds = (QUICK, SEEDS[:1]) if quick else (FULL, SEEDS)
    with training_threads(params=0):
        results = [train_all(seed, schedule) for seed in each(seeds)]
    checks, farthest = judge(results), max(schedule.limits)
    return Evidence(
        slug="meta-pooling",
        claim="A search over poolings in one training gives a net the receptive field that its "
        "task needs.",
        measure=f"test accuracy at distance {farthest}, meta-pooling against the plain net",
        baseline=mean(results, (PLAIN, farthest)),
        measured=mean(results, (META, farthest)),
        checks=checks,
        tables={"Two dots, near or far": _rows(results, seeds)},
        losses=losses(results),
        notes=_notes(schedule),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def judge(results: Results) -> tuple[Check, ...]:
    """The pass rules, then what is reported either way."""
    limits = sorted({limit for _, limit in results[0]})
    checks = []
    for limit in limits:
        if limit == min(limits):
            checks.append(_check(results, PLAIN, limit, ">=", SEES))
            continue
        checks += [
            _check(results, PLAIN, limit, "<=", BLIND),
            _check(results, NEUTRAL, limit, "<=", BLIND),
            _check(results, META, limit, ">=", SEES),
        ]
    windows = [_window(results, limit) for limit in limits]
    growth = min((b - a for a, b in itertools.pairwise(windows)), default=0.0)
    grows = "smallest growth of the largest window from one distance to the next, mean over seeds"
    return (
        *checks,
        Check(asked=grows, measured=growth, limit=0.0),
        Check(
            asked=f"accuracy at {limits[0]}, meta-pooling minus plain",
            measured=gain(results, (META, limits[0]), (PLAIN, limits[0])),
            limit=0.0,
            decides=False,
        ),
    )


def losses(results: Results) -> tuple[str, ...]:
    """What the search costs."""
    seconds = {
        name: statistics.mean(t.seconds for r in results for (n, _), t in r.items() if n == name)
        for name in (PLAIN, META)
    }
    return (
        f"A training with the search takes {seconds[META] / seconds[PLAIN]:.1f} times the CPU "
        "seconds of the plain net, and a second set of images for the mixtures.",
    )


def _check(results: Results, name: str, limit: int, relation: str, rule: float) -> Check:
    return Check(
        asked=f"accuracy at distance {limit}, {name}",
        measured=mean(results, (name, limit)),
        limit=rule,
        relation=relation,
    )


def _rows(results: Results, seeds: Iterable[int]) -> list[Row]:
    rows: list[Row] = []
    for name, limit in results[0]:
        made = [result[name, limit] for result in results]
        row: dict[str, str | int | float] = {"distance": limit, "net": name}
        row |= columns(results, (name, limit), seeds)
        row["kept"] = "; ".join(" + ".join(one.choice) for one in made if one.choice)
        row["parameters"] = made[0].params
        row["CPU seconds"] = round(mean(results, (name, limit), attrgetter("seconds")), 1)
        rows.append(row)
    return rows


def _notes(schedule: Schedule) -> tuple[str, ...]:
    return (
        f"Generated images of 16 x 16 pixels; {schedule.images} train weights, as many others "
        f"the mixtures, 1000 test; {schedule.epochs} epochs, rates and threshold of the project's "
        "notes. Near dots are at most the distance apart, far ones 1 or 2 more.",
        "Mixtures rest for the first 2 epochs. A first run without that (1000 images, seed 0) kept "
        "skip at distance 4 and failed there; the change was tried on seed 10 alone.",
        "Not shown: MobileNetV2's gain of 2.3 points on ImageNet, and any accuracy on photographs.",
    )


def _window(results: Results, limit: int) -> float:
    return mean(results, (META, limit), attrgetter("window"))
