"""InfoBatch: is a third of the samples saved at the accuracy of all of them?

Claim: skipping at random about half of the samples that are learned already, with weights that make
up for it, saves samples and costs no accuracy; and it is better than skipping as many samples
blindly. Every network starts from the same weights. The controls say what carries the result: the
weights alone, the choice of hard samples alone, and the plain training in as many steps. Wrong
labels are the case in which a preference for high losses should harm.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence

from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.infobatch_training import (
    FLAT,
    FULL_RUN,
    HARDEST,
    INFOBATCH,
    PLAIN,
    QUICK_RUN,
    SHORTER,
    UNIFORM,
    Run,
    Trained,
    train_arms,
)

__all__ = ["judge", "run"]

#: the card asks for five, as accuracies of one seed stray by more than the limits
SEEDS = (0, 1, 2, 3, 4)
#: the card's pass rules
LOST, SHARE, BLIND = 0.005, 0.72, 0.002

#: regime -> way of choosing samples -> the network of each seed
Results = Mapping[str, Mapping[str, Sequence[Trained]]]


def run(quick: bool = False) -> Evidence:
    """Train, compare and judge.

    Args:
        quick: one seed, one regime, few epochs: a smoke test whose numbers mean little.
    """
    started = time.perf_counter()
    schedule, seeds = (QUICK_RUN, SEEDS[:1]) if quick else (FULL_RUN, SEEDS)
    with training_threads(params=0):
        results = {
            regime: _over_seeds(wrong, schedule, seeds)
            for regime, wrong in schedule.regimes.items()
        }
    checks = judge(results)
    return Evidence(
        slug="infobatch",
        claim="Skipping at random half of the samples with a loss below the mean, and weighting "
        "those that are kept, saves 28 % of the samples or more at the accuracy of all of them.",
        measure="mean test accuracy, InfoBatch against all samples at the same schedule",
        baseline=_mean(results, "clean", PLAIN),
        measured=_mean(results, "clean", INFOBATCH),
        checks=checks,
        tables={f"Digits, {regime}": _rows(found, seeds) for regime, found in results.items()},
        notes=_notes(schedule, results),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def judge(results: Results) -> tuple[Check, ...]:
    """The card's pass rules, then the controls, which are reported either way."""
    clean, others = next(iter(results)), list(results)[1:]
    decisive = (
        _check(results, clean, PLAIN, -LOST, decides=True),
        Check(
            asked=f"samples trained on, over those of all samples, {clean}",
            measured=statistics.mean(one.share for one in results[clean][INFOBATCH]),
            limit=SHARE,
            relation="<=",
        ),
        _check(results, clean, UNIFORM, -BLIND, decides=True),
    )
    controls = [(name, 0.0) for name in (SHORTER, FLAT, HARDEST)]
    reported = [_check(results, clean, name, limit) for name, limit in controls]
    reported += [
        _check(results, regime, name, limit)
        for regime in others
        for name, limit in ((PLAIN, -LOST), (UNIFORM, -BLIND), *controls)
    ]
    return (*decisive, *reported)


def _check(
    results: Results, regime: str, other: str, limit: float, *, decides: bool = False
) -> Check:
    return Check(
        asked=f"accuracy of InfoBatch minus that of '{other}', {regime}",
        measured=_mean(results, regime, INFOBATCH) - _mean(results, regime, other),
        limit=limit,
        decides=decides,
    )


def _over_seeds(wrong: float, run: Run, seeds: Iterable[int]) -> dict[str, list[Trained]]:
    made = [train_arms(seed, wrong, run) for seed in each(seeds)]
    return {name: [found[name] for found in made] for name in made[0]}


def _mean(results: Results, regime: str, name: str) -> float:
    return statistics.mean(one.accuracy for one in results[regime][name])


def _rows(found: Mapping[str, Sequence[Trained]], seeds: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    for name, made in found.items():
        row: dict[str, str | int | float] = {"an epoch takes": name}
        row |= {f"seed {s}": round(o.accuracy, 3) for s, o in zip(seeds, made, strict=True)}
        row["mean"] = round(statistics.mean(one.accuracy for one in made), 4)
        spread = statistics.stdev(one.accuracy for one in made) if len(made) > 1 else 0.0
        row["deviation"] = round(spread, 4)
        row["samples"] = round(statistics.mean(one.share for one in made), 3)
        row["CPU s"] = round(statistics.mean(one.seconds for one in made), 2)
        rows.append(row)
    return rows


def _notes(run: Run, results: Results) -> tuple[str, ...]:
    clean = next(iter(results))
    flat, shorter = (
        _mean(results, clean, INFOBATCH) - _mean(results, clean, name) for name in (FLAT, SHORTER)
    )
    spread = statistics.mean(
        statistics.stdev(one.accuracy for one in made) if len(made) > 1 else 0.0
        for made in results[clean].values()
    )
    return (
        f"A 64-64-10 network on 897 digits, SGD with momentum, {run.epochs} epochs of batches of "
        "32, half a cosine by share of the epochs; 600 other digits are reported and none of them "
        "is read before.",
        "The rate was chosen for all samples on the selection split and serves every way.",
        f"What carries it: InfoBatch is {flat:+.4f} against the same with all weights 1, and "
        f"{shorter:+.4f} against all samples in as few steps; one way strays by {spread:.4f} over "
        "seeds, and a difference below that is not shown to be one.",
        "Not shown here: the 40 % that the paper saves in runs of some 200 epochs, image networks, "
        "and wall time on a GPU.",
    )
