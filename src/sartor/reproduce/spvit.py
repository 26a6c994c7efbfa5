"""SPViT: does one weight-shared search reach a cost, and is what it chooses better than chance?

Claims: (a) the search ends within 5 % of the multiply-adds that were asked for, and without penalty
leaves the model whole; (b) the derived net gives what the searched one gave; (c) after the same
further training it is as accurate as nets of the same parts at random places. The card asks for 0.6
of the multiply-adds, which thinner feed-forward layers alone can reach; at 0.4 attention must go.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.spvit_training import RATIOS, Outcome, outcomes

__all__ = ["run"]

SEEDS = (0, 1, 2)
FULL = {"epochs": 40, "steps": 300, "tune_epochs": 4}
QUICK = {"epochs": 1, "steps": 4, "tune_epochs": 1}
#: the card's rules
OFF, FREE, EQUAL, LOSS = 0.05, 0.95, 1e-4, 0.005


def run(quick: bool = False) -> Evidence:
    """Train, search and judge.

    Args:
        quick: one seed and few steps: a smoke test whose numbers mean little.
    """
    started = time.perf_counter()
    seeds = SEEDS[:1] if quick else SEEDS
    with training_threads(params=0):
        results = [outcomes(seed, **(QUICK if quick else FULL)) for seed in each(seeds)]
    first = [result[RATIOS[0]] for result in results]
    return Evidence(
        slug="spvit",
        claim="One search with shared weights turns attention into convolutions and thins "
        "feed-forward layers to a cost that is asked for, better than chance.",
        measure="validation accuracy, searched against random architectures of the same parts",
        baseline=statistics.mean(map(_random, first)),
        measured=statistics.mean(one.searched for one in first),
        checks=judge(results),
        tables={
            "Nets on digits": [
                row for s, result in zip(seeds, results, strict=True) for row in rows(s, result)
            ],
            "What the search chose": [
                {
                    "asked": one.ratio,
                    "seed": s,
                    "block": i,
                    "attention becomes": kind,
                    "hidden units": len(one.architecture.units[i]),
                }
                for s, result in zip(seeds, results, strict=True)
                for one in result.values()
                for i, kind in enumerate(one.architecture.kinds)
            ],
        },
        notes=(
            "ImageNet, Swin, and the advantage of convolutions at scale cannot be shown here; a "
            "kind may never be picked.",
            "Penalty, rates and steps were set once, before the run. The epochs of the dense net "
            "were chosen on the selection data of seeds 3 and 4, so that it is trained out when "
            "the search begins; 0.4 was added after a look at the same data.",
        ),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def _random(one: Outcome) -> float:
    return statistics.mean(one.random)


def rows(seed: int, result: Mapping[float, Outcome]) -> list[Row]:
    """Share of the multiply-adds and accuracy of each net of a seed."""
    whole = result[RATIOS[0]]
    nets = [("dense, before", 1.0, whole.before), ("dense", 1.0, whole.dense)]
    for one in result.values():
        nets.append((f"searched for {one.ratio}", one.realised, one.searched))
        nets += [
            (f"random for {one.ratio}, draw {i}", share, accuracy)
            for i, (share, accuracy) in enumerate(zip(one.random_macs, one.random, strict=True))
        ]
    return [
        {"net": name, "seed": seed, "multiply-adds": share, "accuracy": accuracy}
        for name, share, accuracy in nets
    ]


def judge(results: Sequence[Mapping[float, Outcome]]) -> tuple[Check, ...]:
    """The card's pass rules; what only 0.4 of the multiply-adds shows is reported.

    Args:
        results: outcomes by ratio, a mapping for each seed.
    """
    every = [one for result in results for one in result.values()]

    def mean(of: Callable[[Outcome], float], ratio: float) -> float:
        return statistics.mean(of(result[ratio]) for result in results)

    def over_random(one: Outcome) -> float:
        return one.searched - _random(one)

    card, low = RATIOS
    return (
        Check(
            asked="multiply-adds off the target, in units of it, most",
            measured=max(abs(one.realised / one.ratio - 1) for one in every),
            limit=OFF,
            relation="<=",
        ),
        Check(
            asked="multiply-adds that a search without penalty leaves, least",
            measured=min(one.free for one in every),
            limit=FREE,
        ),
        Check(
            asked="difference of searched and derived net's outputs, most",
            measured=max(one.difference for one in every),
            limit=EQUAL,
            relation="<=",
        ),
        Check(
            asked=f"accuracy against random architectures at {card}, mean",
            measured=mean(over_random, card),
            limit=-LOSS,
        ),
        Check(
            asked=f"the same at {low}",
            measured=mean(over_random, low),
            limit=-LOSS,
            decides=False,
        ),
        Check(
            asked="multiply-adds off the target by the gates alone, before the cut was moved",
            measured=max(abs(one.gates / one.ratio - 1) for one in every),
            limit=OFF,
            relation="<=",
            decides=False,
        ),
        *(
            Check(
                asked=f"accuracy at {ratio} against the dense net trained further, mean",
                measured=mean(lambda one: one.searched - one.dense, ratio),
                limit=0.0,
                decides=False,
            )
            for ratio in RATIOS
        ),
    )
