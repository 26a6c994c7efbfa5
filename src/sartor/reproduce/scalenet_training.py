"""ScaleNet's evidence, first half: the networks are trained here, by the one loop on the digits; no
choice reads their validation split.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Task
from sartor.data import digits_task
from sartor.measure import count_flops, count_params
from sartor.nn import tiny_vit
from sartor.nn.sources import seeded
from sartor.stitch.scalenet import ScaleNetConfig, scale_depth
from sartor.train import TrainSettings, train

__all__ = [
    "BASE",
    "BLOCK",
    "COPIES",
    "CYCLIC",
    "DEPTH",
    "FULL",
    "LONGER",
    "LR",
    "PLAIN",
    "QUICK",
    "RANK",
    "SCRATCH",
    "SHORT",
    "WIDTH",
    "Schedule",
    "Trained",
    "train_all",
]

#: the card's net; 3e-3 was chosen among 1e-3 and 3e-3 on the selection split of seed 0
LR = 3e-3
WIDTH = 24
DEPTH = 3
HEADS = 4
RANK = 4

BASE = "base"
LONGER = "base, trained on"
SCRATCH = "twice as deep from scratch, long"
SHORT = "twice as deep from scratch, short"
CYCLIC = "ScaleNet, cyclic"
BLOCK = "ScaleNet, block order"
PLAIN = "sharing without adapters"
COPIES = "copies, not shared"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and on what.

    Attributes:
        long: epochs of the base and of a deep network from scratch.
        short: epochs of all that starts from the base, and of the second one from scratch.
        noise: of the digits.
    """

    long: int
    short: int
    noise: float


FULL = Schedule(long=45, short=15, noise=0.8)
#: on less noise, so that the base learns enough in two thirds of the epochs
QUICK = Schedule(long=30, short=10, noise=0.2)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One network after its training; ``before`` is its accuracy before that."""

    epochs: str
    params: int
    flops: int
    before: float
    accuracy: float
    seconds: float


def train_all(seed: int, schedule: Schedule) -> dict[str, Trained]:
    """Train every network of the comparison on the digits of one seed."""
    task = digits_task(noise=schedule.noise, seed=seed)
    long, short, validation = schedule.long, schedule.short, _joined(task.validation)

    def learn(model: nn.Module, epochs: int, after: int = 0) -> Trained:
        before = _accuracy(model, task, validation)
        began = time.process_time()
        order = seed + 1000 * bool(after)  # another one than the base has seen
        settings = TrainSettings(epochs=epochs, lr=LR, warmup_epochs=1, seed=order)
        train(model, task.train, _loss, settings)
        return Trained(
            epochs=f"{after} + {epochs}" if after else str(epochs),
            params=count_params(model),
            flops=count_flops(model, task.example),
            before=before,
            accuracy=_accuracy(model, task, validation),
            seconds=time.process_time() - began,
        )

    base = _vit(DEPTH, seed)
    made = {BASE: learn(base, long)}
    for name, model in _from_base(base, seed).items():
        made[name] = learn(model, short, after=long)
    made[SCRATCH] = learn(_vit(2 * DEPTH, seed), long)
    made[SHORT] = learn(_vit(2 * DEPTH, seed), short)
    return made


def _from_base(base: nn.Module, seed: int) -> dict[str, nn.Module]:
    """What goes on from the trained base: the control, the method and what it is taken apart to."""
    plain = scale_depth(base, ScaleNetConfig(adapter=None))
    copies = _vit(2 * DEPTH, seed)
    copies.load_state_dict(plain.state_dict())  # which lists a shared tensor for each layer
    return {
        LONGER: copy.deepcopy(base),
        CYCLIC: scale_depth(base, ScaleNetConfig(rank=RANK, seed=seed)),
        BLOCK: scale_depth(base, ScaleNetConfig(rank=RANK, mapping="block", seed=seed)),
        PLAIN: plain,
        COPIES: copies,
    }


def _vit(depth: int, seed: int) -> nn.Module:
    with seeded(seed):
        return tiny_vit(embed_dim=WIDTH, depth=depth, num_heads=HEADS)


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), targets)


def _joined(batches: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The same inputs in batches of 256, which are faster to evaluate."""
    inputs, targets = (torch.cat(parts).split(256) for parts in zip(*batches, strict=True))
    return list(zip(inputs, targets, strict=True))


@torch.inference_mode()
def _accuracy(model: nn.Module, task: Task, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    return float(task.evaluate(model.eval(), batches))
