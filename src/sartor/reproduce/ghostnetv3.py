"""GhostNetV3: do branches that fold away, and the rest of its recipe, help a compact net at no cost
in use?

Beside the plain net stands the control of equal training time: the same net, trained longer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.ghostnetv3_training import (
    BRANCHES,
    FULL,
    LONGER,
    LR,
    MIXED,
    PLAIN,
    QUICK,
    TAUGHT,
    TEACHER,
    Schedule,
    Trained,
    published_gaps,
    train_all,
)
from sartor.reproduce.over_seeds import columns, gain, mean

__all__ = ["judge", "losses", "run"]

SEEDS = (0, 1, 2)
#: net of timm -> side of the images on which folding is compared
PUBLISHED = {
    "ghostnetv3_050": 64,
    "mobilenetv2_050": 64,
}
#: the card's pass rules
GAP, BEHIND, TAUGHT_GAIN, AVERAGED_BEHIND = 1e-4, 0.005, 0.005, 0.003


def run(quick: bool = False) -> Evidence:
    """Train, fold, measure and judge.

    Args:
        quick: one seed, few epochs, less noise, one published net: a smoke test whose numbers mean
            little.
    """
    started = time.perf_counter()
    schedule, seeds = (QUICK, SEEDS[:1]) if quick else (FULL, SEEDS)
    with training_threads(params=0):
        gaps = published_gaps({"ghostnetv3_050": 64} if quick else PUBLISHED)
        results = [train_all(seed, schedule) for seed in each(seeds)]
    checks = judge(results, gaps)
    return Evidence(
        slug="ghostnetv3",
        claim="Parallel branches fold into the plain net without changing a prediction, and a "
        "compact net trained with them, or with a teacher, is no worse than one without.",
        measure="validation accuracy, branches folded against the plain net",
        baseline=mean(results, PLAIN),
        measured=mean(results, BRANCHES),
        checks=checks,
        tables={
            "After training": _rows(results, seeds),
            "Folding published nets": [
                {"net": name, "largest relative change": gap} for name, gap in gaps.items()
            ],
        },
        losses=losses(results),
        notes=_notes(schedule),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def judge(results: Sequence[Mapping[str, Trained]], gaps: Mapping[str, float]) -> tuple[Check, ...]:
    """The pass rules, then what is reported either way."""
    return (
        Check(
            asked="largest relative change of a logit by folding, all nets",
            measured=max(*gaps.values(), *(result[BRANCHES].gap for result in results)),
            limit=GAP,
            relation="<=",
        ),
        Check(
            asked="share of validation images whose class folding changed",
            measured=max(result[BRANCHES].differing for result in results),
            limit=0.0,
            relation="<=",
        ),
        Check(
            asked="operations of the folded net, against the plain one",
            measured=results[0][BRANCHES].flops / results[0][PLAIN].flops,
            limit=1.0,
            relation="<=",
        ),
        Check(
            asked="accuracy with branches, minus plain",
            measured=gain(results, BRANCHES, PLAIN),
            limit=-BEHIND,
        ),
        Check(
            asked="accuracy with a teacher, minus plain",
            measured=gain(results, TAUGHT, PLAIN),
            limit=TAUGHT_GAIN,
        ),
        Check(
            asked="accuracy of averaged weights, minus raw ones, branches",
            measured=mean(results, BRANCHES, attrgetter("averaged")) - mean(results, BRANCHES),
            limit=-AVERAGED_BEHIND,
        ),
        Check(
            asked=f"accuracy with branches, minus {LONGER}",
            measured=gain(results, BRANCHES, LONGER),
            limit=0.0,
            decides=False,
        ),
        Check(
            asked="accuracy without mixup, minus with",
            measured=gain(results, PLAIN, MIXED),
            limit=0.0,
            decides=False,
        ),
    )


def losses(results: Sequence[Mapping[str, Trained]]) -> tuple[str, ...]:
    """What branches cost in training."""
    branches, plain = (mean(results, name, attrgetter("seconds")) for name in (BRANCHES, PLAIN))
    wider = results[0][BRANCHES].train_params / results[0][PLAIN].train_params
    return (
        f"Branches train {branches / plain:.2f} times as long as the plain net, with {wider:.2f} "
        "times its parameters.",
    )


def _rows(results: Sequence[Mapping[str, Trained]], seeds: Iterable[int]) -> list[Row]:
    rows: list[Row] = []
    for name in (PLAIN, LONGER, BRANCHES, TAUGHT, MIXED, TEACHER):
        made = [result[name] for result in results]
        row: dict[str, str | int | float] = {
            "net": name,
            "parameters in training": made[0].train_params,
            "in use": made[0].params,
            "kFLOPs": round(made[0].flops / 1e3),
        }
        row |= columns(results, name, seeds)
        row["averaged weights"] = round(mean(results, name, attrgetter("averaged")), 3)
        row["CPU seconds"] = round(mean(results, name, attrgetter("seconds")), 1)
        rows.append(row)
    return rows


def _notes(schedule: Schedule) -> tuple[str, ...]:
    return (
        f"scikit-learn digits with noise {schedule.noise:g}, enlarged to 16 x 16, stand in for "
        f"CIFAR-10; six inverted residuals, {schedule.epochs} epochs, AdamW at {LR:g}, label "
        "smoothing 0.1, averages with the recipe's own decay.",
        "The teacher is twice as wide and trains three times as long on the same images; its time "
        "is not counted to the student's.",
        "Not shown: ImageNet gains, 600 epochs, latency on phones.",
    )
