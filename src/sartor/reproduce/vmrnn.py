"""VMRNN: does a recurrent cell of selective scans learn motion, better than a convolutional one?

Against what needs no learning, black frames, the mean frame and the last frame, because a net that
learned nothing but black frames still beats the last one; and against a ConvLSTM on the same
patches, after as many epochs and, which decides, as many CPU seconds. The time of the scan is
measured beside it: it must grow with the length, not with its square.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from operator import attrgetter

import torch
import torch.nn.functional as F

from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.nn.vmrnn.scan import selective_scan
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.over_seeds import columns, mean
from sartor.reproduce.vmrnn_training import (
    CONVLSTM,
    COPY,
    FULL,
    LR,
    MEAN,
    OURS,
    QUICK,
    SHORT,
    ZERO,
    Forecast,
    Schedule,
    forecast_all,
)

__all__ = ["judge", "losses", "run", "scan_growth"]

SEEDS = (0, 1, 2)
#: the card's pass rules
OF_MEAN, OF_CONVLSTM, GROWTH = 0.6, 0.8, 6.0
ERROR = attrgetter("test")


def run(quick: bool = False) -> Evidence:
    """Train, measure and judge.

    Args:
        quick: one seed, few sequences and epochs: a smoke test whose numbers mean little.
    """
    started = time.perf_counter()
    schedule, seeds = (QUICK, SEEDS[:1]) if quick else (FULL, SEEDS)
    with training_threads(params=0):
        growth = scan_growth()
        results = [forecast_all(seed, schedule) for seed in each(seeds)]
    checks = judge(results, growth)
    return Evidence(
        slug="vmrnn",
        claim="A recurrent cell whose one gate comes from selective scans learns to forecast "
        "motion, better than a ConvLSTM of its size, with scans of linear time.",
        measure="squared error of a frame, VMRNN against the ConvLSTM in equal CPU time",
        baseline=mean(results, CONVLSTM, ERROR),
        measured=mean(results, OURS, ERROR),
        checks=checks,
        tables={"Four frames ahead, after four given ones": _rows(results)},
        losses=losses(results),
        notes=_notes(schedule),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def scan_growth(short: int = 64, long: int = 256, rounds: int = 7) -> float:
    """Time of the scan at a long length over that at a short one, forward and backward, median of
    interleaved rounds; 4 samples of 256 channels with a state of 16.
    """
    draw = torch.Generator().manual_seed(0)
    given = {}
    for length in (short, long):
        u, delta = (torch.randn(4, 256, length, generator=draw) for _ in range(2))
        B, C = (torch.randn(4, 16, length, generator=draw) for _ in range(2))
        rates = -torch.arange(1.0, 17.0).repeat(256, 1)
        given[length] = [p.requires_grad_() for p in (u, F.softplus(delta), rates, B, C)]

    def seconds(length: int) -> float:
        began = time.perf_counter()
        torch.autograd.grad(selective_scan(*given[length]).sum(), given[length])
        return time.perf_counter() - began

    return statistics.median([seconds(long) / seconds(short) for _ in range(rounds + 1)][1:])


def judge(results: Sequence[Mapping[str, Forecast]], growth: float) -> tuple[Check, ...]:
    """The pass rules, then what is reported either way."""

    def share(name: str) -> float:
        return mean(results, OURS, ERROR) / mean(results, name, ERROR)

    def check(asked: str, measured: float, limit: float, *, decides: bool = True) -> Check:
        return Check(asked=asked, measured=measured, limit=limit, relation="<=", decides=decides)

    return (
        check("error of VMRNN, over that of the mean frame", share(MEAN), OF_MEAN),
        check(
            "error of VMRNN, over that of the ConvLSTM in equal time", share(CONVLSTM), OF_CONVLSTM
        ),
        check("time of the scan at length 256, over that at 64", growth, GROWTH),
        check(
            "error of VMRNN, over that of the ConvLSTM after as many epochs",
            share(SHORT),
            OF_CONVLSTM,
            decides=False,
        ),
        check("error of VMRNN, over that of black frames", share(ZERO), OF_MEAN, decides=False),
        check("error of VMRNN, over that of the last frame", share(COPY), OF_MEAN, decides=False),
    )


def losses(results: Sequence[Mapping[str, Forecast]]) -> tuple[str, ...]:
    """What the training costs."""

    def an_epoch(name: str) -> float:
        return mean(results, name, lambda f: f.seconds / f.epochs)

    return (
        f"An epoch takes {an_epoch(OURS) / an_epoch(CONVLSTM):.1f} times the CPU seconds of the "
        "ConvLSTM's.",
    )


def _rows(results: Sequence[Mapping[str, Forecast]]) -> list[Row]:
    rows: list[Row] = []
    for name, first in results[0].items():
        row = {"forecast": name, "parameters": first.params or "", "epochs": "", "CPU seconds": ""}
        if first.epochs:  # those of the ConvLSTM at equal time differ by seed
            row["epochs"] = round(mean(results, name, attrgetter("epochs")))
            row["CPU seconds"] = round(mean(results, name, attrgetter("seconds")), 1)
        rows.append({**row, **columns(results, name, SEEDS[: len(results)], ERROR)})
    return rows


def _notes(schedule: Schedule) -> tuple[str, ...]:
    return (
        f"A bump of 3 x 3 pixels moves by one pixel a frame, straight or diagonally, over a torus "
        f"of 8 x 8; {schedule.sequences} sequences to train on, 200 to report on. Errors are "
        "squared, summed over a frame, mean over the four frames ahead.",
        f"Both nets learn by Adam at {LR:g}, falling along a cosine, {schedule.batch} sequences a "
        "step, squared error alone; no teacher forcing ahead.",
        "Not shown: TaxiBJ, KTH and Moving MNIST, and memory on a GPU.",
    )
