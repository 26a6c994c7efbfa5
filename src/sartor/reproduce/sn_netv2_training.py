"""SN-Netv2's evidence, first half: two anchors on noisy digits, and the networks stitched of them.

Sizes, noise, epochs and learning rates are those of the method's card; no choice reads the
validation split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Family, Member, Task
from sartor.data import digits_task
from sartor.losses import distillation_loss
from sartor.nn import build
from sartor.nn.sources import seeded
from sartor.reproduce.scores import hypervolume
from sartor.reproduce.sn_net_training import Scored, score_net
from sartor.stitch import TwoWayNetwork, TwoWaySettings, draw_config, flops_sampler, stitch_two_way
from sartor.train import TrainSettings, train

__all__ = [
    "FULL",
    "METHODS",
    "QUICK",
    "RANK",
    "Method",
    "Schedule",
    "Trained",
    "area",
    "fresh",
    "frontier",
    "trained",
    "two_anchors",
]

#: width -> heads of the two anchors, of depth 4 and patches of 2
ANCHORS = {12: 2, 32: 4}
DEPTH = 4
RANK = 4
ANCHOR_LR, STITCH_LR = 3e-3, 1e-3
INIT_IMAGES = 100
ALPHA = 0.5
#: accuracy of guessing: what lies below has no worth
CHANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Epochs of each anchor and of joint training, and the noise of the digits."""

    anchors: int
    joint: int
    noise: float


FULL = Schedule(anchors=40, joint=25, noise=0.6)
#: a smoke test whose numbers mean little
QUICK = Schedule(anchors=8, joint=2, noise=0.2)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to stitch and to sample.

    Attributes:
        name: of its row.
        settings: of the search space.
        grouped: whether steps are spread evenly over groups of like FLOPs, or over configurations.
    """

    name: str
    settings: TwoWaySettings
    grouped: bool


#: the card's three rows, and the baseline: the same anchors stitched one way
METHODS = (
    Method(name="two-way, uniform, full rank", settings=TwoWaySettings(rank=0), grouped=False),
    Method(name="two-way, FLOPs groups, full rank", settings=TwoWaySettings(rank=0), grouped=True),
    Method(
        name=f"two-way, FLOPs groups, rank {RANK}",
        settings=TwoWaySettings(rank=RANK),
        grouped=True,
    ),
    Method(
        name="one-way, uniform, full rank",
        settings=TwoWaySettings(rank=0, kinds=("sl",)),
        grouped=False,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A jointly trained network.

    Attributes:
        before: mean selection accuracy of the stitches before training.
        points: every configuration, the small and the large anchor first.
        parameters: of the stitching layers that were trained.
        seconds: of the CPU in joint training.
    """

    before: float
    points: Sequence[Scored]
    parameters: int
    seconds: float

    @property
    def anchors(self) -> float:
        """Sum of the two anchors' validation accuracies."""
        return sum(point.validation for point in self.points[:2])

    @property
    def mean(self) -> float:
        """Mean validation accuracy of all configurations."""
        return math.fsum(point.validation for point in self.points) / len(self.points)


def two_anchors(seed: int, schedule: Schedule) -> tuple[Family, Task]:
    """Train the two anchors from scratch on labels."""
    task = digits_task(noise=schedule.noise, seed=seed)
    task = replace(task, selection=_joined(task.selection), validation=_joined(task.validation))
    members = []
    for width, heads in ANCHORS.items():
        kwargs = {"embed_dim": width, "depth": DEPTH, "num_heads": heads}
        source = {"kind": "tiny_vit", "kwargs": kwargs}
        model = build(source, seed=seed)
        settings = TrainSettings(epochs=schedule.anchors, lr=ANCHOR_LR, warmup_epochs=1, seed=seed)
        train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
        members.append(Member(name=f"vit-{width}", model=model, source=source))
    return Family(tuple(members)), task


def fresh(method: Method, family: Family, task: Task, seed: int) -> TwoWayNetwork:
    """Stitch copies of the family and set the stitching layers by least squares, every method by
    the same images.
    """
    with seeded(seed):
        net = stitch_two_way(family, task.example, method.settings)
    with seeded(seed):  # again, as making layers of low rank draws random numbers
        net.init_stitches(task.batch(INIT_IMAGES))
    return net


def trained(method: Method, family: Family, task: Task, seed: int, schedule: Schedule) -> Trained:
    """Stitch, train all configurations jointly, one in each step, and score them.

    Labels, and the hard labels of the untouched large anchor, teach.
    """
    net = fresh(method, family, task, seed)
    before = _mean_of_stitches(net, task)
    sampler = flops_sampler(net, seed=seed)

    def on_step(step: int) -> None:
        net.set_config(
            sampler(step) if method.grouped else draw_config(seed, step, len(net.configs))
        )

    settings = TrainSettings(epochs=schedule.joint, lr=STITCH_LR, warmup_epochs=0.5, seed=seed)
    teacher = family.models[-1]
    started = time.process_time()
    train(net, task.train, _taught_by(teacher), settings, frozen=(teacher,), on_step=on_step)
    return Trained(
        before=before,
        seconds=time.process_time() - started,
        points=score_net(net, task),
        parameters=sum(p.numel() for p in net.stitch_layers.parameters() if p.requires_grad),
    )


def frontier(points: Sequence[Scored]) -> list[Scored]:
    """Points that no cheaper one equals on the selection split, small to large."""
    kept: list[Scored] = []
    for point in sorted(points, key=lambda p: (p.flops, -p.selection)):
        if not kept or point.selection > kept[-1].selection:
            kept.append(point)
    return kept


def area(points: Sequence[Scored], dearest: int) -> float:
    """Area under the frontier, which the selection split chooses, on the validation split.

    Args:
        points: of one network.
        dearest: FLOPs up to which it counts, over log10 of the FLOPs and above :data:`CHANCE`.
    """
    pairs = [(math.log10(p.flops), p.validation) for p in frontier(points)]
    return hypervolume(pairs, cost=math.log10(dearest), quality=CHANCE)


def _joined(batches: Iterable[Any]) -> list[tuple[Tensor, Tensor]]:
    """The same inputs in larger batches, which are faster to evaluate."""
    inputs, targets = (torch.cat(parts).split(256) for parts in zip(*batches, strict=True))
    return list(zip(inputs, targets, strict=True))


@torch.inference_mode()
def _mean_of_stitches(net: TwoWayNetwork, task: Task) -> float:
    seen = []
    for index in range(2, net.num_configs):
        net.set_config(index)
        seen.append(float(task.evaluate(net, task.selection)))
    return math.fsum(seen) / len(seen)


def _taught_by(teacher: nn.Module) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    def loss(student: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(inputs)
        return distillation_loss(student(inputs), targets, wanted, alpha=ALPHA)

    return loss
