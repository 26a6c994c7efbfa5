"""HVT: what does pooling tokens between stages cost, and what is the saving worth when spent?

Claims: a small transformer that pools once costs at most 0.62 of one that does not and is as
accurate; widened to equal cost it stays so; the mean token classifies as well as a class token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sartor.core.packages import require
from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.nn.hvt.backbone import HVT
from sartor.reproduce.backbone_training import SIDE, Trained, enlarged_digits, step_times, trained
from sartor.reproduce.evidence import Check, Evidence

__all__ = ["run"]

SEEDS = (0, 1, 2)
EPOCHS, QUICK_EPOCHS = 8, 1
#: the card's net at three quarters of its width: 64 patches, 4 blocks, 4 heads
DIM, WIDE, DEPTH, HEADS, PATCH = 48, 64, 4, 4, 4
#: the card's rules
COST, STEP, LOSS, EQUAL_COST, EQUAL_LOSS, TOKEN_LOSS = 0.62, 0.8, 0.02, 1.02, 0.01, 0.01
PLAIN, POOLED, WIDENED, TOKEN = "no pool", "one pool", "one pool, widened", "class token"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One seed: the nets, and milliseconds of a step of the first two."""

    nets: Mapping[str, Trained]
    step_ms: Mapping[str, float]


def run(quick: bool = False) -> Evidence:
    """Train, measure and judge.

    Args:
        quick: one seed and one epoch: a smoke test whose numbers mean little.
    """
    started = time.perf_counter()
    seeds = SEEDS[:1] if quick else SEEDS
    with training_threads(params=0):
        outcomes = [_outcome(seed, QUICK_EPOCHS if quick else EPOCHS) for seed in each(seeds)]
    checks = judge(outcomes)
    return Evidence(
        slug="hvt",
        claim="Pooling the tokens of a vision transformer saves cost for little accuracy, and the "
        "saving can be spent on width.",
        measure="validation accuracy, one pool against none",
        baseline=_mean(outcomes, PLAIN),
        measured=_mean(outcomes, POOLED),
        checks=checks,
        tables={
            "Small transformers on digits of 32 x 32": [
                net.row(seed)
                for seed, one in zip(seeds, outcomes, strict=True)
                for net in one.nets.values()
            ]
        },
        notes=(
            "Digits enlarged to 32 x 32 stand in for CIFAR-10; the gaps on ImageNet and the three "
            "points that Scale-HVT-Ti-4 gains there cannot be shown at this scale.",
            "So few epochs leave every net far from converged: the pooled ones learn faster, which "
            "says little of where all would end.",
        ),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def nets() -> dict[str, Callable[[], nn.Module]]:
    """The four nets that are compared."""
    shape = {"patch_size": PATCH, "depth": DEPTH, "num_heads": HEADS}

    def hvt(dim: int, pool_every: int | None) -> Callable[[], nn.Module]:
        return lambda: HVT(10, 1, SIDE, embed_dim=dim, pool_every=pool_every, **shape)

    return {
        PLAIN: hvt(DIM, None),
        POOLED: hvt(DIM, DEPTH),
        WIDENED: hvt(WIDE, DEPTH),
        TOKEN: lambda: require("timm.models.vision_transformer").VisionTransformer(
            img_size=SIDE, in_chans=1, num_classes=10, embed_dim=DIM, **shape
        ),
    }


def _outcome(seed: int, epochs: int) -> Outcome:
    task = enlarged_digits(seed)
    made = {
        name: trained(name, make, task, seed=seed, epochs=epochs) for name, make in nets().items()
    }
    steps = step_times({name: made[name][1] for name in (PLAIN, POOLED)}, task, rounds=7)
    return Outcome(nets={name: one for name, (one, _) in made.items()}, step_ms=steps)


def _mean(outcomes: Sequence[Outcome], name: str) -> float:
    return statistics.mean(one.nets[name].accuracy for one in outcomes)


def judge(outcomes: Sequence[Outcome]) -> tuple[Check, ...]:
    """The card's pass rules."""
    first, plain = outcomes[0].nets, _mean(outcomes, PLAIN)
    step = statistics.median(one.step_ms[POOLED] / one.step_ms[PLAIN] for one in outcomes)
    return (
        Check(
            asked="MACs with one pool in units of those without",
            measured=first[POOLED].macs / first[PLAIN].macs,
            limit=COST,
            relation="<=",
        ),
        Check(
            asked="time of a training step in units of that without",
            measured=step,
            limit=STEP,
            relation="<=",
        ),
        Check(
            asked="accuracy with one pool against without, mean",
            measured=_mean(outcomes, POOLED) - plain,
            limit=-LOSS,
        ),
        Check(
            asked="MACs of the widened net in units of those without pool",
            measured=first[WIDENED].macs / first[PLAIN].macs,
            limit=EQUAL_COST,
            relation="<=",
        ),
        Check(
            asked="accuracy of the widened net against no pool, mean",
            measured=_mean(outcomes, WIDENED) - plain,
            limit=-EQUAL_LOSS,
        ),
        Check(
            asked="accuracy of the mean token against a class token, mean",
            measured=plain - _mean(outcomes, TOKEN),
            limit=-TOKEN_LOSS,
        ),
    )
