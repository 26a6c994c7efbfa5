"""SN-Netv2: do both directions, sampling by FLOPs groups and low-rank stitching layers keep their
promises?

Claims: (a) two-way routes give many more sizes over the same range of costs; (b) sampling evenly
over FLOPs groups serves the anchors better than sampling evenly over configurations; (c) low-rank
stitching layers do as well as full ones with half the trained parameters. Reported beside them: the
area under the frontier of two-way against one-way stitching after equally many steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from sartor.core import Family, Task
from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.measure import count_flops
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.sn_net_training import Scored, score
from sartor.reproduce.sn_netv2_training import (
    FULL,
    METHODS,
    QUICK,
    RANK,
    Schedule,
    Trained,
    area,
    fresh,
    frontier,
    trained,
    two_anchors,
)
from sartor.stitch import flops_sampler

__all__ = ["chi_square", "run", "unequal_outputs"]

SEEDS = (0, 1, 2)
DRAWS = 20_000
#: the card's pass rules; the last is the 0.99 quantile of chi-square with 4 degrees of freedom
WIDER, ANCHOR_GAIN, LOW_RANK_LOSS, HALF, QUANTILE = 1.5, 0.005, 0.03, 0.5, 13.277


@dataclass(frozen=True, kw_only=True)
class _Seed:
    alone: Sequence[Scored]
    uniform: Trained
    grouped: Trained
    low_rank: Trained
    one_way: Trained
    chi_square: float
    unequal: int

    @property
    def rows(self) -> tuple[Trained, ...]:
        return self.uniform, self.grouped, self.low_rank, self.one_way

    @property
    def outside(self) -> int:
        """Two-way configurations that cost less or more than the anchors."""
        low, high = (point.flops for point in self.alone)
        return sum(not low <= point.flops <= high for point in self.uniform.points)

    def area(self, one: Trained) -> float:
        """Under a network's frontier, up to the cost of the large anchor."""
        return area(one.points, self.alone[-1].flops)


def run(quick: bool = False) -> Evidence:
    """Train, measure and judge.

    Args:
        quick: one seed, few epochs, less noise: a smoke test whose numbers mean little.
    """
    started = time.perf_counter()
    schedule, seeds = (QUICK, SEEDS[:1]) if quick else (FULL, SEEDS)
    with training_threads(params=0):
        results = [_run_seed(seed, schedule) for seed in each(seeds)]
    checks = _checks(results)
    return Evidence(
        slug="sn-netv2",
        claim="Stitching two anchors in both directions gives many more sizes; sampling evenly "
        "over FLOPs groups serves the anchors, and low-rank stitching layers suffice.",
        measure="sum of the two anchors' validation accuracies after joint training, FLOPs groups "
        "against uniform sampling",
        baseline=statistics.mean(r.uniform.anchors for r in results),
        measured=statistics.mean(r.grouped.anchors for r in results),
        checks=checks,
        tables={"After equally many steps of joint training": _rows(results, seeds)},
        notes=_notes(schedule),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def unequal_outputs(family: Family, task: Task, seed: int) -> int:
    """Configurations whose outputs differ in any bit between full-rank and low-rank stitching
    layers after least squares, before or after the correction, still zero, is merged.
    """
    full, low = (fresh(method, family, task, seed) for method in METHODS[1:3])
    inputs = next(iter(task.selection))[0]
    different = set()
    for merged in (False, True):
        low.train(not merged)
        for index in range(full.num_configs):
            full.set_config(index)
            low.set_config(index)
            with torch.no_grad():
                if not torch.equal(full(inputs), low(inputs)):
                    different.add(index)
    return len(different)


def chi_square(groups: Sequence[Sequence[int]], drawn: Sequence[int]) -> float:
    """Distance of the draws' histogram over groups from an even one.

    Example:
        >>> chi_square([[0], [1, 2]], [0, 0, 1, 2])
        0.0
    """
    expected = len(drawn) / len(groups)
    counts = (sum(index in group for index in drawn) for group in map(set, groups))
    return sum((count - expected) ** 2 / expected for count in counts)


def _run_seed(seed: int, schedule: Schedule) -> _Seed:
    family, task = two_anchors(seed, schedule)
    uniform, grouped, low_rank, one_way = (
        trained(method, family, task, seed, schedule) for method in METHODS
    )
    sampler = flops_sampler(fresh(METHODS[1], family, task, seed), seed=seed)
    return _Seed(
        alone=[score(m.name, m.model, count_flops(m.model, task.example), task) for m in family],
        uniform=uniform,
        grouped=grouped,
        low_rank=low_rank,
        one_way=one_way,
        chi_square=chi_square(sampler.groups, [sampler(step) for step in range(DRAWS)]),
        unequal=unequal_outputs(family, task, seed),
    )


def _checks(results: Sequence[_Seed]) -> tuple[Check, ...]:
    """The card's pass rules, then what is reported either way."""
    return (*_decisive(results), *_reported(results))


def _decisive(results: Sequence[_Seed]) -> tuple[Check, ...]:
    first = results[0]
    return (
        Check(
            asked="configurations, two-way over one-way",
            measured=len(first.uniform.points) / len(first.one_way.points),
            limit=WIDER,
        ),
        Check(
            asked="two-way configurations outside of the anchors' range of FLOPs",
            measured=max(r.outside for r in results),
            limit=0,
            relation="<=",
        ),
        Check(
            asked=f"chi-square of {DRAWS} draws over the FLOPs groups, worst seed",
            measured=max(r.chi_square for r in results),
            limit=QUANTILE,
            relation="<=",
        ),
        Check(
            asked="sum of the anchors' accuracies, FLOPs groups minus uniform, mean over seeds",
            measured=statistics.mean(r.grouped.anchors - r.uniform.anchors for r in results),
            limit=ANCHOR_GAIN,
        ),
        Check(
            asked=f"mean accuracy, rank {RANK} minus full rank, mean over seeds",
            measured=statistics.mean(r.low_rank.mean - r.grouped.mean for r in results),
            limit=-LOW_RANK_LOSS,
        ),
        Check(
            asked="trained stitching parameters, low over full rank",
            measured=first.low_rank.parameters / first.grouped.parameters,
            limit=HALF,
            relation="<=",
        ),
        Check(
            asked="configurations whose outputs an untrained correction changes in any bit",
            measured=max(r.unequal for r in results),
            limit=0,
            relation="<=",
        ),
    )


def _reported(results: Sequence[_Seed]) -> list[Check]:
    questions: dict[str, Callable[[_Seed], float]] = {
        "mean accuracy, FLOPs groups minus uniform": lambda r: r.grouped.mean - r.uniform.mean,
        "area, two-way uniform minus one-way": lambda r: r.area(r.uniform) - r.area(r.one_way),
        "area, two-way FLOPs groups minus one-way": (
            lambda r: r.area(r.grouped) - r.area(r.one_way)
        ),
        f"area, two-way FLOPs groups rank {RANK} minus one-way": (
            lambda r: r.area(r.low_rank) - r.area(r.one_way)
        ),
    }
    return [
        Check(asked=asked, measured=statistics.mean(map(of, results)), limit=0.0, decides=False)
        for asked, of in questions.items()
    ]


def _rows(results: Sequence[_Seed], seeds: Iterable[int]) -> list[Row]:
    rows: list[Row] = []
    for seed, result in zip(seeds, results, strict=True):
        for method, one in zip(METHODS, result.rows, strict=True):
            rows.append(
                {
                    "seed": seed,
                    "anchors alone": " / ".join(f"{p.validation:.3f}" for p in result.alone),
                    "network": method.name,
                    "configurations": len(one.points),
                    "stitches before (selection split)": round(one.before, 3),
                    "anchors after": " / ".join(f"{p.validation:.3f}" for p in one.points[:2]),
                    "mean after": round(one.mean, 3),
                    "points on the frontier": len(frontier(one.points)),
                    "area under it": round(result.area(one), 4),
                    "trained stitching parameters": one.parameters,
                    "CPU seconds": round(one.seconds, 1),
                }
            )
    return rows


def _notes(schedule: Schedule) -> tuple[str, ...]:
    return (
        f"scikit-learn digits with noise {schedule.noise:g}, ViTs of widths 12 and 32 and depth 4, "
        f"trained {schedule.anchors} epochs each; every stitched net trains {schedule.joint} "
        "epochs, one configuration a step, from the same least squares.",
        "One-way has the routes from the small to the large anchor alone, so each of its "
        "configurations is trained more often in the same number of steps.",
        "Frontiers are chosen on the selection split and their areas measured on the validation "
        "split, over log10(FLOPs) up to the large anchor and above 0.1, the accuracy of guessing.",
        "Not shown: segmentation and depth quality, a steadier training on dense tasks, ImageNet.",
    )
