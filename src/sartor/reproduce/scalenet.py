"""ScaleNet: is a small network, deepened with shared weights, as good as a deep one from scratch?

Claim: repeating the blocks of a pretrained network with shared weights and small adapters, and
training it a third as long, gives what a network of twice the depth learns from scratch, with next
to no new parameters. Beside it stand the controls without which that says little: the base trained
on for as many epochs, sharing without adapters, and repeated blocks that are no longer shared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence

from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.over_seeds import columns, gain, mean
from sartor.reproduce.scalenet_training import (
    BASE,
    COPIES,
    CYCLIC,
    DEPTH,
    FULL,
    LONGER,
    LR,
    PLAIN,
    QUICK,
    RANK,
    SCRATCH,
    SHORT,
    WIDTH,
    Schedule,
    Trained,
    train_all,
)

__all__ = ["judge", "losses", "run"]

SEEDS = (0, 1, 2)
#: the card's pass rules, and the one of the project on parameters
STORED, OF_DEEP, BEHIND, AHEAD, BEFORE = 1.06, 0.6, 0.01, 0.2, 0.4


def run(quick: bool = False) -> Evidence:
    """Train, measure and judge.

    Args:
        quick: one seed, fewer epochs, less noise: a smoke test whose numbers mean little.
    """
    started = time.perf_counter()
    schedule, seeds = (QUICK, SEEDS[:1]) if quick else (FULL, SEEDS)
    with training_threads(params=0):
        results = [train_all(seed, schedule) for seed in each(seeds)]
    checks = judge(results)
    return Evidence(
        slug="scalenet",
        claim="A pretrained transformer, deepened to twice its layers with shared weights and "
        "small adapters, reaches in a third of the epochs what a network of that depth learns "
        "from scratch.",
        measure="validation accuracy, ScaleNet (cyclic, short training) against twice the depth "
        "from scratch (long training)",
        baseline=mean(results, SCRATCH),
        measured=mean(results, CYCLIC),
        checks=checks,
        tables={"Accuracy, seed by seed": _rows(results, seeds)},
        losses=losses(results),
        notes=_notes(schedule),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def judge(results: Sequence[dict[str, Trained]]) -> tuple[Check, ...]:
    """The pass rules, then what is reported either way."""
    first = results[0]
    return (
        Check(
            asked="parameters of ScaleNet against the base",
            measured=first[CYCLIC].params / first[BASE].params,
            limit=STORED,
            relation="<=",
        ),
        Check(
            asked="parameters of ScaleNet against twice the depth",
            measured=first[CYCLIC].params / first[SCRATCH].params,
            limit=OF_DEEP,
            relation="<=",
        ),
        Check(
            asked="accuracy: ScaleNet, short, minus twice the depth from scratch, long",
            measured=gain(results, CYCLIC, SCRATCH),
            limit=-BEHIND,
        ),
        Check(
            asked="accuracy: ScaleNet, short, minus twice the depth from scratch, short",
            measured=gain(results, CYCLIC, SHORT),
            limit=AHEAD,
        ),
        Check(
            asked="accuracy of ScaleNet before its training, lowest seed",
            measured=min(result[CYCLIC].before for result in results),
            limit=BEFORE,
        ),
        Check(
            asked="control: ScaleNet minus the base trained on for as many epochs",
            measured=gain(results, CYCLIC, LONGER),
            limit=BEHIND,
            decides=False,
        ),
        Check(
            asked="control: ScaleNet minus sharing without adapters",
            measured=gain(results, CYCLIC, PLAIN),
            limit=BEHIND,
            decides=False,
        ),
        Check(
            asked="control: ScaleNet minus copies that are not shared",
            measured=gain(results, CYCLIC, COPIES),
            limit=-BEHIND,
            decides=False,
        ),
    )


def losses(results: Sequence[dict[str, Trained]]) -> tuple[str, ...]:
    """What ScaleNet costs."""
    first = results[0]
    return (
        f"It takes {first[CYCLIC].flops / first[BASE].flops:.2f} times the operations of the base "
        "for each input: it saves storage and training epochs, and no compute.",
    )


def _rows(results: Sequence[dict[str, Trained]], seeds: Iterable[int]) -> list[Row]:
    rows: list[Row] = []
    for name, first in results[0].items():
        made = [result[name] for result in results]
        row: dict[str, str | int | float] = {
            "network": name,
            "epochs": first.epochs,
            "parameters": first.params,
            "kFLOPs": round(first.flops / 1e3),
            "before": round(statistics.mean(one.before for one in made), 3),
        }
        row |= columns(results, name, seeds)
        row["CPU s"] = round(statistics.mean(one.seconds for one in made), 1)
        rows.append(row)
    return rows


def _notes(schedule: Schedule) -> tuple[str, ...]:
    return (
        f"scikit-learn digits with noise {schedule.noise:g}, ViTs of width {WIDTH}, {DEPTH} blocks "
        f"deepened to {2 * DEPTH}, adapters of rank {RANK}; every training has AdamW at "
        f"{LR:g} with an epoch of warm-up and a cosine. 'before' is the accuracy before the last "
        "training.",
        "At this scale the control decides what can be said: whatever ScaleNet gains over the "
        "trained base, the base may gain by training on. The paper's gain by depth and its "
        "ablation of adapters are not shown here.",
        "The epochs of the base count for nothing in the claim, as it is given; with them ScaleNet "
        "has seen more data than the network from scratch.",
    )
