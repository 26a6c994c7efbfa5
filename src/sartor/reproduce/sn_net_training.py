"""SN-Net's evidence, first half: the anchors, the stitched nets and their rivals are trained here.

Everything is trained by the one loop on the digits task; no choice reads its validation split.
"""

from __future__ import annotations

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
from sartor.measure import count_flops
from sartor.nn import build
from sartor.nn.sources import seeded
from sartor.stitch import StitchableNetwork, draw_config, stitch
from sartor.train import TrainSettings, train

__all__ = [
    "FULL",
    "QUICK",
    "RIVALS",
    "Schedule",
    "Scored",
    "glance",
    "rival_routes",
    "rival_vits",
    "score",
    "score_net",
    "stitched",
    "train_jointly",
    "trained_anchors",
]

#: the card's family: widths 8, 16, 32 with 2, 4 and 4 heads, depth 4, patches of 2
ANCHORS = {8: 2, 16: 4, 32: 4}
DEPTH = 4
ANCHOR_LR, STITCH_LR = 3e-3, 1e-3
INIT_IMAGES = 100
ALPHA = 0.5
#: separately trained models that share the stitched net's steps: between the two neighbour pairs,
#: three each
RIVALS = 6
#: widths that a rival may have: multiples of its 2 heads between those of the anchors
RIVAL_WIDTHS = range(10, 32, 2)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and on what.

    Attributes:
        anchors: epochs of each anchor.
        joint: epochs of joint training, a multiple of :data:`RIVALS`, so that the rivals share its
            steps equally.
        noise: of the digits.
        anchor_loss: accuracy that joint training may cost the largest anchor.
    """

    anchors: int
    joint: int
    noise: float
    anchor_loss: float


#: the card's; with less noise the smallest ViT is as good as the largest after so many epochs
FULL = Schedule(anchors=40, joint=30, noise=0.6, anchor_loss=0.04)
#: fewer epochs, on less noise so that the anchors still differ: enough to see the gap between the
#: initialisations, too few for the largest anchor to recover (seeds 0 and 1 lose 0.02 and 0.09)
QUICK = Schedule(anchors=16, joint=6, noise=0.2, anchor_loss=0.12)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One model: its name, cost, accuracy for choosing and accuracy for reporting."""

    name: str
    flops: int
    params: int
    selection: float
    validation: float


def trained_anchors(seed: int, schedule: Schedule) -> tuple[Family, Task]:
    """Train the family from scratch on labels."""
    task = digits_task(noise=schedule.noise, seed=seed)
    task = replace(task, selection=_joined(task.selection), validation=_joined(task.validation))
    members = []
    for width, heads in ANCHORS.items():
        source = _source(width, heads)
        model = build(source, seed=seed)
        settings = TrainSettings(epochs=schedule.anchors, lr=ANCHOR_LR, warmup_epochs=1, seed=seed)
        train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
        members.append(Member(name=f"vit-{width}", model=model, source=source))
    return Family(tuple(members)), task


def stitched(family: Family, task: Task, seed: int, *, least_squares: bool) -> StitchableNetwork:
    """Stitch copies of the family; set the stitching layers by least squares or leave them
    random.
    """
    with seeded(seed):
        net = stitch(family, task.example)
        if least_squares:
            net.init_stitches(task.batch(INIT_IMAGES))
    return net


def train_jointly(
    net: StitchableNetwork, family: Family, task: Task, seed: int, schedule: Schedule
) -> float:
    """Train all configurations, one drawn for each step; return the CPU seconds it took."""

    def on_step(step: int) -> None:
        net.set_config(draw_config(seed, step, net.num_configs))

    return _distil(net, family, task, seed, epochs=schedule.joint, lr=STITCH_LR, on_step=on_step)


def rival_routes(
    net: StitchableNetwork, family: Family, task: Task, seed: int, schedule: Schedule
) -> tuple[list[Scored], float]:
    """Fine-tune some stitched routes, each alone with its share of the steps.

    Args:
        net: initialised by least squares and untrained; it stays so.
        family: its last model teaches.
        task: digits.
        seed: of the order of the data.
        schedule: whose joint epochs are shared out.

    Returns:
        The scored models and the CPU seconds of their training.
    """
    scored, seconds = [], 0.0
    for index in _spread(net):
        model = net.extract(index)
        seconds += _distil(model, family, task, seed, epochs=schedule.joint // RIVALS, lr=STITCH_LR)
        scored.append(score(net.configs[index].name, model, net.flops(index), task))
    return scored, seconds


def rival_vits(
    net: StitchableNetwork, family: Family, task: Task, seed: int, schedule: Schedule
) -> tuple[list[Scored], float]:
    """Distil plain ViTs of widths between the anchors from scratch, each with its share of the
    steps; each costs what one of :func:`rival_routes` costs, as nearly as widths allow.
    """
    costs = {w: count_flops(build(_source(w, 2)), task.example) for w in RIVAL_WIDTHS}
    scored, seconds = [], 0.0
    for wanted in sorted(net.flops(index) for index in _spread(net)):
        width = min(costs, key=lambda w: abs(costs[w] - wanted))
        cost = costs.pop(width)
        model = build(_source(width, 2), seed=seed)
        seconds += _distil(model, family, task, seed, epochs=schedule.joint // RIVALS, lr=ANCHOR_LR)
        scored.append(score(f"vit-{width}", model, cost, task))
    return scored, seconds


@torch.inference_mode()
def glance(net: StitchableNetwork, task: Task) -> list[float]:
    """Accuracy of every stitch on the selection split alone."""
    seen = []
    for index, config in enumerate(net.configs):
        if config.stitches:
            net.set_config(index)
            seen.append(float(task.evaluate(net, task.selection)))
    return seen


def score_net(net: StitchableNetwork, task: Task) -> list[Scored]:
    """Score every configuration."""
    scored = []
    for index, config in enumerate(net.configs):
        net.set_config(index)
        params = net.num_params(index)
        scored.append(score(config.name, net, net.flops(index), task, params=params))
    return scored


@torch.inference_mode()
def score(
    name: str, model: nn.Module, flops: int, task: Task, *, params: int | None = None
) -> Scored:
    """Evaluate a model on the selection and the validation split."""
    model.eval()
    return Scored(
        name=name,
        flops=flops,
        params=sum(p.numel() for p in model.parameters()) if params is None else params,
        selection=float(task.evaluate(model, task.selection)),
        validation=float(task.evaluate(model, task.validation)),
    )


def _joined(batches: Iterable[Any]) -> list[tuple[Tensor, Tensor]]:
    """The same inputs in batches of 256, which are faster to evaluate."""
    inputs, targets = (torch.cat(parts).split(256) for parts in zip(*batches, strict=True))
    return list(zip(inputs, targets, strict=True))


def _spread(net: StitchableNetwork) -> Sequence[int]:
    """Stitches for the rivals, evenly spaced in the order of their cost."""
    stitches = [i for i, config in enumerate(net.configs) if config.stitches]
    stitches.sort(key=net.flops)
    return [stitches[(2 * i + 1) * len(stitches) // (2 * RIVALS)] for i in range(RIVALS)]


def _distil(
    model: nn.Module,
    family: Family,
    task: Task,
    seed: int,
    *,
    epochs: int,
    lr: float,
    on_step: Callable[[int], None] | None = None,
) -> float:
    """Train against labels and the hard labels of the untouched largest anchor."""
    teacher = family.models[-1]

    def loss(student: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(inputs)
        return distillation_loss(student(inputs), targets, wanted, alpha=ALPHA)

    settings = TrainSettings(epochs=epochs, lr=lr, warmup_epochs=0.5, seed=seed)
    started = time.process_time()
    train(model, task.train, loss, settings, frozen=(teacher,), on_step=on_step)
    return time.process_time() - started


def _source(width: int, heads: int) -> dict[str, Any]:
    kwargs = {"embed_dim": width, "depth": DEPTH, "num_heads": heads}
    return {"kind": "tiny_vit", "kwargs": kwargs}
