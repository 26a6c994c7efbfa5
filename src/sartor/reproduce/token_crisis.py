"""Token-crisis: what does repeating scarce text cost, and does dropout that is switched on late
give it back without slowing the start?

Claim: repeated text makes validation loss turn and rise; dropout over the second half of the steps
ends as low as dropout from the start, which learns more slowly. Runs of a seed take equally many
steps on equal batches from the same weights. Control: the same dropout where text is plentiful.
Reported beside: more parameters turn worse, and a mixture of experts that stands in for the model.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.token_crisis_training import FULL, QUICK, Plan, Run, corpus, trained

__all__ = ["ARMS", "judge", "run"]

SEEDS = (0, 1, 2)
RATE = 0.2
PLENTY, REPEATED, EARLY, LATE, CONTROL = (
    "all text, no dropout",
    "repeated, no dropout",
    f"repeated, dropout {RATE} from the start",
    f"repeated, dropout {RATE} from half the steps",
    f"all text, dropout {RATE} from the start",
)
ARMS: Mapping[str, Mapping[str, float]] = {
    PLENTY: {"unique": True},
    REPEATED: {"unique": False},
    EARLY: {"unique": False, "rate": RATE},
    LATE: {"unique": False, "rate": RATE, "start": 0.5},
    CONTROL: {"unique": True, "rate": RATE},
}
#: the card's pass rules, nats a character
COSTS, RISES, HELPS, AS_GOOD = 0.35, 0.04, 0.05, 0.02
WIDTHS, EXPERTS = (32, 64), 4

#: arm -> the run of each seed
Results = Mapping[str, Sequence[Run]]


def run(quick: bool = False) -> Evidence:
    """Train, compare and judge.

    Args:
        quick: one seed, few steps: a smoke test whose numbers mean nothing.
    """
    started = time.perf_counter()
    plan, seeds = (QUICK, SEEDS[:1]) if quick else (FULL, SEEDS)
    with training_threads(params=0):
        results = {
            arm: [
                trained(plan, seed, **ARMS[arm])  # type: ignore[arg-type]
                for seed in (seeds[:1] if arm == CONTROL else seeds)
            ]
            for arm in each(ARMS, "arms")
        }
        widths = {
            width: results[REPEATED][0] if width == 64 else _repeated(plan, width=width)
            for width in WIDTHS
        }
        proxy = {rate: _repeated(plan, experts=EXPERTS, rate=rate) for rate in (0.0, RATE)}
    checks = judge(results, widths, proxy)
    return Evidence(
        slug="token-crisis",
        claim="Repeating scarce text raises the validation loss; dropout switched on halfway gives "
        "that back, as dropout from the start does, without its slow start.",
        measure="last validation loss on repeated text in nats a character, late dropout against "
        "no dropout",
        baseline=_mean(results[REPEATED]),
        measured=_mean(results[LATE]),
        checks=checks,
        tables={
            "Validation loss, nats a character": _rows(results, seeds),
            "Seed 0: parameters, and the proxy": _sides(widths, proxy),
        },
        notes=_notes(plan),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def _repeated(plan: Plan, *, width: int = 64, experts: int = 0, rate: float = 0.0) -> Run:
    return trained(plan, 0, unique=False, width=width, experts=experts, rate=rate)


def judge(
    results: Results, widths: Mapping[int, Run], proxy: Mapping[float, Run]
) -> tuple[Check, ...]:
    """The pass rules on means over seeds, then what is reported either way."""
    repeated, late, early = (_mean(results[arm]) for arm in (REPEATED, LATE, EARLY))
    rises = [run.report.degradation for run in widths.values()]
    ordered = (proxy[RATE].last - proxy[0.0].last) * (
        results[EARLY][0].last - results[REPEATED][0].last
    )
    return (
        Check(
            asked="cost of repetition: last loss, repeated minus all text",
            measured=repeated - _mean(results[PLENTY]),
            limit=COSTS,
        ),
        Check(
            asked="D, last minus lowest loss, repeated without dropout",
            measured=_mean(results[REPEATED], lambda run: run.report.degradation),
            limit=RISES,
        ),
        Check(
            asked="last loss, repeated: no dropout minus late dropout",
            measured=repeated - late,
            limit=HELPS,
        ),
        Check(
            asked="last loss, repeated: late dropout minus dropout from the start",
            measured=late - early,
            limit=AS_GOOD,
            relation="<=",
        ),
        Check(
            asked="loss at half the steps: dropout from the start minus none yet",
            measured=_mean(results[EARLY], lambda run: run.near(0.5))
            - _mean(results[LATE], lambda run: run.near(0.5)),
            limit=0.0,
        ),
        Check(
            asked="control: what the same dropout costs where all text is new (seed 0)",
            measured=results[CONTROL][0].last - results[PLENTY][0].last,
            limit=0.0,
        ),
        Check(
            asked="D grows with width, from 32 to 64 (seed 0)",
            measured=min(b - a for a, b in itertools.pairwise(rises)),
            limit=0.0,
            decides=False,
        ),
        Check(
            asked="proxy of 4 experts: D without dropout (seed 0)",
            measured=proxy[0.0].report.degradation,
            limit=RISES,
            decides=False,
        ),
        Check(
            asked="proxy orders the two rates as the model does: product of their differences",
            measured=ordered,
            limit=0.0,
            decides=False,
        ),
    )


def _mean(runs: Sequence[Run], value: Callable[[Run], float] = lambda run: run.last) -> float:
    return statistics.fmean(value(run) for run in runs)


def _rows(results: Results, seeds: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    for arm, runs in results.items():
        row: dict[str, str | int | float] = {"run": arm, "epochs": round(runs[0].epochs, 2)}
        row |= {
            f"seed {s}": round(r.last, 3) if r else ""
            for s, r in itertools.zip_longest(seeds, runs)
        }
        row |= {
            "last": round(_mean(runs), 4),
            "lowest": round(_mean(runs, lambda run: run.report.best_loss), 4),
            "at half": round(_mean(runs, lambda run: run.near(0.5)), 4),
            "D": round(_mean(runs, lambda run: run.report.degradation), 4),
            "G": round(_mean(runs, lambda run: run.report.gap), 3),
            "CPU s": round(_mean(runs, lambda run: run.seconds), 1),
        }
        rows.append(row)
    return rows


def _sides(widths: Mapping[int, Run], proxy: Mapping[float, Run]) -> list[Row]:
    named = {f"width {width}, no dropout": run for width, run in widths.items()} | {
        f"proxy of {EXPERTS} experts, dropout {rate:g}": run for rate, run in proxy.items()
    }
    return [
        {
            "run": name,
            "last": round(run.last, 4),
            "lowest": round(run.report.best_loss, 4),
            "D": round(run.report.degradation, 4),
            "CPU s": round(run.seconds, 1),
        }
        for name, run in named.items()
    ]


def _notes(plan: Plan) -> tuple[str, ...]:
    return (
        f"Text: docstrings and help pages of this Python, {len(corpus().train):,} characters to "
        f"train; {plan.subset:,} of them are repeated, another piece for each seed. Validation: "
        "12 fixed batches of text that is never trained on.",
        "Late dropout has seen no more than the first half without dropout; at half the steps it "
        "is the run without dropout, bit for bit.",
        "Not shown: models of billions of parameters, downstream damage, and that a sweep on the "
        "proxy is cheaper (on a CPU it is not).",
        "Dropout 0.2 was the card's rate; nothing was tuned here.",
    )
