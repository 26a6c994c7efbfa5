"""AutoRF: does a searched cell of poolings give a net the receptive field that a task needs?

Two dots must be told near from far, farther apart than two 3 x 3 convolutions see. Beside the net
with a channel gate stand a cell without pooling, a random cell and a published one. Then digits:
does a published cell keep what a ResNet can do, and does it do as well as a random one?
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from operator import attrgetter

from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.reproduce.autorf_digits import (
    CELL,
    CELL_BY_ASAM,
    GATED,
    PLAIN,
    RANDOM_CELL,
    read_digits,
)
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
from sartor.reproduce.over_seeds import columns, gain, mean

__all__ = ["judge", "judge_digits", "losses", "run"]

SEEDS = (0, 1, 2)
#: the card's pass rules; "large" is a window of at least 5
BLIND, SEES, LARGE = 0.65, 0.90, 5
#: of digits: accuracy that a published cell may lose to no cell and to random ones, and how much
#: larger it may make the net
BELOW_PLAIN, BELOW_RANDOM, LARGER = -0.005, -0.01, 1.2

Results = Sequence[Mapping[str, Trained]]


def run(quick: bool = False) -> Evidence:
    """Search, train and judge.

    Args:
        quick: one seed, few images and steps: a smoke test whose numbers mean little.
    """
    started = time.perf_counter()
    schedule, seeds = (QUICK, SEEDS[:1]) if quick else (FULL, SEEDS)
    with training_threads(params=0):
        results = [train_all(seed, schedule) for seed in each(seeds)]
        digits = [read_digits(seed, schedule.digits_epochs) for seed in each(seeds, "digits")]
    return Evidence(
        slug="autorf",
        claim="A searched cell of poolings widens the receptive field of a net of 3 x 3 "
        "convolutions as far as its task needs.",
        measure="test accuracy, searched cell against the channel gate alone",
        baseline=mean(results, GATE),
        measured=mean(results, SEARCHED),
        checks=(*judge(results), *judge_digits(digits)),
        tables={
            f"Two dots, distance {schedule.limit}": _rows(results),
            "Digits of 16 x 16 pixels": _rows(digits),
        },
        losses=losses(results),
        notes=_notes(schedule),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def judge(results: Results) -> tuple[Check, ...]:
    """The pass rules on two dots, then what is reported either way."""
    large = min(sum(w >= LARGE for w in result[SEARCHED].windows) for result in results)
    return (
        _accuracy(results, GATE, "<=", BLIND),
        _accuracy(results, NOISE, "<=", BLIND),
        _accuracy(results, SEARCHED, ">=", SEES),
        Check(
            asked=f"windows of at least {LARGE} in the searched cell, fewest of a seed",
            measured=large,
            limit=1,
        ),
        _gain(results, SEARCHED, RANDOM, decides=False),
        _gain(results, SEARCHED, PUBLISHED, decides=False),
    )


def judge_digits(digits: Results) -> tuple[Check, ...]:
    """The pass rules on digits, then what is reported either way."""
    params = attrgetter("params")
    return (
        _gain(digits, CELL, PLAIN, BELOW_PLAIN),
        _gain(digits, CELL, RANDOM_CELL, BELOW_RANDOM),
        Check(
            asked=f"parameters {CELL}, over those of the {PLAIN}",
            measured=mean(digits, CELL, params) / mean(digits, PLAIN, params),
            limit=LARGER,
            relation="<=",
        ),
        _gain(digits, CELL, GATED, decides=False),
        _gain(digits, CELL_BY_ASAM, CELL, decides=False),
    )


def losses(results: Results) -> tuple[str, ...]:
    """What the search costs."""
    seconds = {n: mean(results, n, attrgetter("seconds")) for n in (GATE, SEARCHED)}
    return (
        f"Search and training take {seconds[SEARCHED] / seconds[GATE]:.1f} times the CPU seconds "
        "of the net with a channel gate.",
    )


def _accuracy(results: Results, name: str, relation: str, rule: float) -> Check:
    return Check(
        asked=f"accuracy, {name}", measured=mean(results, name), limit=rule, relation=relation
    )


def _gain(
    results: Results, name: str, other: str, limit: float = 0.0, *, decides: bool = True
) -> Check:
    return Check(
        asked=f"accuracy, {name}, minus {other}",
        measured=gain(results, name, other),
        limit=limit,
        decides=decides,
    )


def _rows(results: Results) -> list[Row]:
    return [
        {
            "net": name,
            "parameters": first.params,
            **columns(results, name, SEEDS[: len(results)]),
            "windows": "; ".join(" ".join(map(str, result[name].windows)) for result in results)
            if first.windows
            else "",
            "CPU seconds": round(mean(results, name, attrgetter("seconds")), 1),
        }
        for name, first in results[0].items()
    ]


def _notes(schedule: Schedule) -> tuple[str, ...]:
    return (
        f"Generated images of 16 x 16 pixels; {schedule.images} train weights, as many others the "
        f"mixtures for {schedule.search_steps} steps, 1000 test. Every cell is trained from "
        f"scratch for {schedule.epochs} epochs; rates are not tuned here.",
        "Near dots are at most the distance apart, far ones 1 or 2 more.",
        f"Digits: noisy ones of scikit-learn stand in for CIFAR-10; 1000 train a ResNet-8 of width "
        f"16 for {schedule.digits_epochs} epochs by the authors' SGD, which ASAM (rho 1) takes two "
        "passes a step for; 597 are reported on.",
        "Not shown: accuracy on CIFAR or ImageNet, and any comparison with CBAM or SPP.",
    )
