"""ESTA's evidence, first half: digits pretrained upright, adapted to digits on their side.

Learning rates, rank, noise, sizes and numbers of steps are those of the method's card; nothing is
chosen by looking at the test images.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core import Family, Member, Task
from sartor.core.packages import require
from sartor.data.memory import ImageTensors, train_loader, whole_loader
from sartor.data.memory import statistics as pixel_statistics
from sartor.data.split import hold_out
from sartor.nn import build
from sartor.nn.sources import seeded
from sartor.reproduce.scores import spearman
from sartor.stitch import (
    AdaptedNetwork,
    EstaSettings,
    ImportanceSampler,
    StitchableNetwork,
    StitchConfig,
    StitchImportance,
    adapt_stitchable,
    find_anchor,
)
from sartor.stitch.importance import flops_intervals
from sartor.train import TrainSettings, train

__all__ = [
    "FULL",
    "INTERVALS",
    "METHODS",
    "QUICK",
    "Adapted",
    "Chosen",
    "Method",
    "Schedule",
    "adapt",
    "pretrained",
    "sideways",
    "stitched",
    "tested",
]

#: widths and heads of the anchors
ANCHORS = {12: 2, 32: 4}
DEPTH, RANK, CLASSES = 4, 4, 10
NOISE, DRAWS = 0.5, 8
UPRIGHT, SIDEWAYS, TEST_DRAWS = 800, 300, 2
ANCHOR_LR, FULL_LR, LORA_LR = 3e-3, 1e-3, 1e-2
INIT_IMAGES = 100
INTERVALS = 3


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Epochs of pretraining and of adaptation (6 steps each)."""

    pretraining: int
    adaptation: int


FULL = Schedule(pretraining=40, adaptation=80)
QUICK = Schedule(pretraining=6, adaptation=16)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to adapt: what is trained, and how configurations are drawn.

    Attributes:
        name: of its row.
        settings: what is trained; ``None``: all weights of the stitched net.
        uniform_mix: share of uniform draws; 1 for uniform sampling.
        intervals: of FLOPs, within which importance is compared when drawing.
    """

    name: str
    settings: EstaSettings | None
    uniform_mix: float = 1.0
    intervals: int = INTERVALS


_PST = EstaSettings(rank=RANK)
METHODS = (
    Method(name="full SN-Net tuning", settings=None),
    Method(name="shared LoRA", settings=EstaSettings(rank=RANK, stitch_bias=False)),
    Method(name="LoRA and biases, uniform sampling", settings=_PST),
    Method(name="ESTA", settings=_PST, uniform_mix=0.3),
    Method(name="ESTA without floor", settings=_PST, uniform_mix=0.0, intervals=1),
)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Test accuracy of the stitch that was chosen in an interval of FLOPs, and what it is held
    against: the medians of all its configurations and of its stitches alone, and its best stitch.
    """

    accuracy: float
    median: float
    of_stitches: float
    best: float


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """One adapted network: test accuracy of every configuration, and what training knew.

    Attributes:
        configs: names of the configurations.
        trainable: number of values that were trained.
        held: number of values in all.
        accuracies: test accuracies after.
        importance: score of each configuration.
        flops: of each configuration.
        seconds: CPU time of training.
    """

    configs: Sequence[str]
    trainable: int
    held: int
    accuracies: Sequence[float]
    importance: Sequence[float]
    flops: Sequence[int]
    seconds: float

    @property
    def mean(self) -> float:
        """Mean accuracy over configurations."""
        return statistics.mean(self.accuracies)

    @property
    def rank(self) -> float:
        """Rank correlation of importance and accuracy over all configurations."""
        return spearman(self.importance, self.accuracies)

    @property
    def chosen(self) -> list[Chosen]:
        """The most important stitch of each interval of FLOPs; anchors are kept anyway."""
        rows = []
        for interval in flops_intervals(self.flops, INTERVALS):
            stitches = [index for index in interval if index >= len(ANCHORS)]
            best = max(stitches, key=lambda i: self.importance[i])
            rows.append(
                Chosen(
                    accuracy=self.accuracies[best],
                    median=statistics.median(self.accuracies[i] for i in interval),
                    of_stitches=statistics.median(self.accuracies[i] for i in stitches),
                    best=max(self.accuracies[i] for i in stitches),
                )
            )
        return rows


def sideways(seed: int, *, batch_size: int = 50) -> tuple[Task, Task]:
    """Digits as they are, to pretrain on, and turned by 90 degrees, to adapt to.

    Returns:
        Two tasks that share no image: 800 upright ones; 300 turned ones to train on and 697, with
        two draws of noise each, to test on.
    """
    bunch = require("sklearn.datasets").load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1)  # (1797, 1, 8, 8)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    rest, upright = hold_out(labels, UPRIGHT, seed=seed)
    kept, few = hold_out(labels[rest], SIDEWAYS, seed=seed)
    test, few = rest[kept], rest[few]
    mean, std = pixel_statistics(images[upright])
    images = (images - mean) / std
    turned = images.rot90(1, dims=(2, 3))
    generator = torch.Generator().manual_seed(seed)

    def noisy(clean: Tensor, chosen: Tensor, draws: int) -> ImageTensors:
        pixels = clean[chosen].repeat(draws, 1, 1, 1)
        pixels = pixels + NOISE * torch.randn(pixels.shape, generator=generator)
        return ImageTensors(
            pixels, labels[chosen].repeat(draws), mean=torch.zeros(1), std=torch.ones(1)
        )

    def task(name: str, clean: Tensor, chosen: Tensor) -> Task:
        tested = whole_loader(noisy(turned, test, TEST_DRAWS), batch_size=256, workers=0)
        pool = noisy(clean, chosen, DRAWS)
        count = len(chosen)
        loader = train_loader(pool, count=count, draws=DRAWS, batch_size=batch_size, workers=0)
        example = torch.zeros(1, 1, 8, 8)
        return Task(
            name=name,
            train=loader,
            selection=tested,
            validation=tested,
            example=example,
            num_classes=CLASSES,
        )

    return task("upright digits", images, upright), task("digits on their side", turned, few)


def pretrained(task: Task, seed: int, schedule: Schedule) -> Family:
    """Train the anchors from scratch."""
    members = []
    for width, heads in ANCHORS.items():
        kwargs = {"embed_dim": width, "depth": DEPTH, "num_heads": heads}
        model = build({"kind": "tiny_vit", "kwargs": kwargs}, seed=seed)
        settings = TrainSettings(
            epochs=schedule.pretraining, lr=ANCHOR_LR, warmup_epochs=1, seed=seed
        )
        train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
        members.append(Member(name=f"vit-{width}", model=model))
    return Family(tuple(members))


def stitched(family: Family, task: Task, seed: int) -> StitchableNetwork:
    """Stitch copies with new heads: two anchors and the stitches (j, j) and (j, j + 1)."""
    with seeded(seed):
        members = copy.deepcopy(family.members)
        for member in members:
            member.model.reset_classifier(CLASSES)  # type: ignore[operator]
        anchors = [find_anchor(member, task.example) for member in members]
        configs = [StitchConfig(anchors=(index,)) for index in range(len(anchors))]
        configs += [
            StitchConfig(
                anchors=(0, 1), stage=0, routes=((0, j + 1), (q, DEPTH)), stitch_layers=(j,)
            )
            for j in range(DEPTH)
            for q in (j, j + 1)
            if q < DEPTH
        ]
        net = StitchableNetwork(anchors, task.example, configs)
        net.init_stitches(task.batch(INIT_IMAGES))
    return net


def adapt(family: Family, task: Task, method: Method, seed: int, schedule: Schedule) -> Adapted:
    """Adapt a stitched family in one way and test every configuration."""
    net = stitched(family, task, seed)
    flops = [net.flops(index) for index in range(net.num_configs)]
    if method.settings:
        with seeded(seed):
            net = adapt_stitchable(net, method.settings)
    importance = net.importance if isinstance(net, AdaptedNetwork) else None
    importance = importance or StitchImportance(net.num_configs)
    sampler = ImportanceSampler(
        importance,
        flops,
        uniform_mix=method.uniform_mix,
        num_intervals=method.intervals,
        seed=seed,
    )
    trained = [p for p in net.parameters() if p.requires_grad]
    settings = TrainSettings(
        epochs=schedule.adaptation,
        lr=LORA_LR if method.settings else FULL_LR,
        warmup_epochs=1,
        seed=seed,
    )
    drawn = 0

    def on_step(step: int) -> None:
        nonlocal drawn
        drawn = sampler.draw(step)
        net.set_config(drawn)

    def on_backward() -> None:
        if isinstance(net, AdaptedNetwork):
            net.score_step()
        else:
            importance.update(drawn, trained)

    started = time.process_time()
    train(
        net,
        task.train,
        lambda m, x, y: F.cross_entropy(m(x), y),
        settings,
        on_step=on_step,
        on_backward=lambda _: on_backward(),
    )
    seconds = time.process_time() - started
    return Adapted(
        configs=[config.name for config in net.configs],
        trainable=sum(p.numel() for p in trained),
        held=sum(p.numel() for p in net.parameters()),
        accuracies=tested(net, task),
        importance=importance.scores(),
        flops=flops,
        seconds=seconds,
    )


@torch.inference_mode()
def tested(net: StitchableNetwork, task: Task) -> list[float]:
    """Test accuracy of every configuration."""
    net.eval()
    seen = []
    for index in range(net.num_configs):
        net.set_config(index)
        seen.append(float(task.evaluate(net, task.validation)))
    return seen
