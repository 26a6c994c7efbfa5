"""Low precision: what do few bits cost a training, in products, weights, moments?

Claim: products in int8 or MXFP8 and moments in 8 bits train as float32 does; bfloat16 weights
without a float32 copy need stochastic rounding where updates are small; training with two-bit
weights recovers what rounding them afterwards loses. Variants of a seed share weights, batches and
steps. Controls: float32 at the same rate; float32 trained as much longer, then rounded; rounding
with a better step, without training. Products are emulated: nothing is said about speed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.low_precision_training import (
    FULL,
    QUICK,
    WIDE_LR,
    Digits,
    Plan,
    Trained,
    adapted,
    after_training,
    trained,
)

__all__ = ["VARIANTS", "Rounded", "judge", "run"]

SEEDS = (0, 1, 2)
PLAIN, SLOW, NEAREST, RANDOM = (
    "float32",
    "float32, lr 1e-4",
    "bfloat16 weights, nearest, lr 1e-4",
    "bfloat16 weights, stochastic, lr 1e-4",
)
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "int8 rows": {"recipe": "int8"},
    "MXFP8 E4M3": {"recipe": "mxfp8"},
    "MXFP8 E4M3, gradients E5M2": {"recipe": "mxfp8_e5m2"},
    "MXFP4": {"recipe": "mxfp4"},
    "MXFP4, stochastic gradients, Hadamard": {"recipe": "mxfp4_stochastic"},
    "BitNet b1.58": {"recipe": "bitnet"},
    "AdamW, 8-bit moments": {"bits": 8},
    "AdamW, 4-bit moments": {"bits": 4},
    "AdamW, FP8 moments": {"bits": "fp8"},
    SLOW: {"lr": WIDE_LR},
    NEAREST: {"lr": WIDE_LR, "weights": "nearest"},
    RANDOM: {"lr": WIDE_LR, "weights": "stochastic"},
}
#: the card's pass rules: losses above float32, share of bytes, share of the drop
AS_MASTER, LOST, CLOSE, FOUR_BITS, BYTES, RECOVERED = 0.02, 1.0, 0.01, 0.03, 0.27, 0.8


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """Accuracies of one seed with weights of two bits.

    Attributes:
        plain: float32.
        after: float32, rounded afterwards with the largest weight as scale.
        longer: the same after as many further steps as ``during`` takes.
        step: rounded afterwards with the step that learning begins from.
        during: trained with a learned step.
    """

    plain: float
    after: float
    longer: float
    step: float
    during: float


Results = Mapping[str, Sequence[Trained]]


def run(quick: bool = False) -> Evidence:
    """Train, compare and judge.

    Args:
        quick: one seed, few steps: a smoke test whose numbers mean nothing.
    """
    started = time.perf_counter()
    plan, seeds = (QUICK, SEEDS[:1]) if quick else (FULL, SEEDS)
    with training_threads(params=0):
        digits = {seed: Digits.of(seed) for seed in seeds}
        results = {
            name: [trained(plan, digits[seed], seed, VARIANTS[name]) for seed in seeds]
            for name in each(VARIANTS, "variants")
        }
        rounded = [
            _rounded(plan, digits[seed], seed, base)
            for seed, base in zip(seeds, results[PLAIN], strict=True)
        ]
    checks = judge(results, rounded)
    return Evidence(
        slug="low-precision",
        claim="int8 and MXFP8 products and 8-bit moments train as float32 does; bfloat16 weights "
        "without a copy need stochastic rounding; two-bit weights need training.",
        measure="training loss at lr 1e-4 of bfloat16 weights, stochastic against nearest rounding",
        baseline=_loss(results, NEAREST),
        measured=_loss(results, RANDOM),
        checks=checks,
        tables={
            "Training loss and accuracy on 597 unseen digits": _rows(results, seeds),
            "Accuracy with weights of two bits": _rounded_rows(rounded, seeds),
        },
        notes=(
            "Products are emulated in float32: no speed and no memory is claimed from them. Bytes "
            "of moments are real.",
            "Which formats run natively on which hardware: docs/low-precision-formats.md.",
            "A loss of 99 stands for one that is not finite: the training broke.",
            "Not shown: language models, training at scale, native kernels.",
        ),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def _rounded(plan: Plan, digits: Digits, seed: int, base: Trained) -> Rounded:
    longer = adapted(plan, digits, seed, base.model, 0).model
    return Rounded(
        plain=base.accuracy,
        after=after_training(digits, base.model, 2, step=False),
        longer=after_training(digits, longer, 2, step=False),
        step=after_training(digits, base.model, 2, step=True),
        during=adapted(plan, digits, seed, base.model, 2).accuracy,
    )


def judge(results: Results, rounded: Sequence[Rounded]) -> tuple[Check, ...]:
    """The pass rules on means over seeds, then what is reported either way."""

    def above(name: str, limit: float, plain: str = PLAIN, decides: bool = True) -> Check:
        return Check(
            asked=f"training loss above {plain}: {name}",
            measured=_loss(results, name) - _loss(results, plain),
            limit=limit,
            relation="<=",
            decides=decides,
        )

    plain, after, longer, step, during = (
        statistics.fmean(getattr(one, name) for one in rounded)
        for name in ("plain", "after", "longer", "step", "during")
    )
    share = max(
        results[name][0].state_bytes / results[PLAIN][0].state_bytes
        for name in ("AdamW, 8-bit moments", "AdamW, FP8 moments")
    )
    return (
        above(RANDOM, AS_MASTER, SLOW),
        Check(
            asked=f"training loss above {SLOW}: {NEAREST}",
            measured=_loss(results, NEAREST) - _loss(results, SLOW),
            limit=LOST,
        ),
        above("int8 rows", CLOSE),
        above("MXFP8 E4M3", CLOSE),
        above("MXFP8 E4M3, gradients E5M2", CLOSE),
        above("MXFP4", FOUR_BITS),
        above("AdamW, 8-bit moments", CLOSE),
        above("AdamW, FP8 moments", CLOSE),
        Check(
            asked="bytes of 8-bit and FP8 moments, share of float32",
            measured=share,
            limit=BYTES,
            relation="<=",
        ),
        Check(
            asked="share of the drop by two bits that training with them recovers",
            measured=(during - after) / max(plain - after, 1e-9),
            limit=RECOVERED,
        ),
        Check(
            asked="control: accuracy of two bits, trained minus the better rounding afterwards "
            "(a better step, or as many more float32 steps)",
            measured=during - max(longer, step),
            limit=0.0,
            decides=False,
        ),
        Check(
            asked="stochastic gradients and Hadamard: training loss below MXFP4 to the nearest",
            measured=_loss(results, "MXFP4")
            - _loss(results, "MXFP4, stochastic gradients, Hadamard"),
            limit=0.0,
            decides=False,
        ),
        above("AdamW, 4-bit moments", CLOSE, decides=False),
        above("BitNet b1.58", FOUR_BITS, decides=False),
    )


def _loss(results: Results, name: str) -> float:
    return statistics.fmean(one.loss for one in results[name])


def _rows(results: Results, seeds: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    for name, made in results.items():
        row: dict[str, str | int | float] = {"variant": name}
        row |= {f"loss {s}": round(o.loss, 4) for s, o in zip(seeds, made, strict=True)}
        row |= {
            "loss": round(_loss(results, name), 4),
            "accuracy": round(statistics.fmean(one.accuracy for one in made), 4),
            "state bytes": made[0].state_bytes,
            "CPU s": round(statistics.fmean(one.seconds for one in made), 1),
        }
        rows.append(row)
    return rows


def _rounded_rows(rounded: Sequence[Rounded], seeds: Sequence[int]) -> list[Row]:
    words = {
        "plain": "float32",
        "after": "rounded afterwards, largest weight as scale",
        "longer": "the same after 150 more float32 steps",
        "step": "rounded afterwards, LSQ's first step",
        "during": "150 steps of training with a learned step",
    }
    rows: list[Row] = []
    for name, said in words.items():
        values = [float(getattr(one, name)) for one in rounded]
        row: dict[str, str | int | float] = {"weights": said}
        row |= {f"seed {s}": round(v, 3) for s, v in zip(seeds, values, strict=True)}
        rows.append({**row, "mean": round(statistics.fmean(values), 4)})
    return rows
