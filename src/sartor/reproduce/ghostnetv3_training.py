"""GhostNetV3's evidence, first half: a small inverted-residual net is trained plainly, with
branches, with a teacher and with mixed images, by the compact recipe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Task
from sartor.core.packages import require
from sartor.data import digits_task
from sartor.losses import Outputs
from sartor.measure import count_flops, count_params
from sartor.nn.ghostnetv3.branches import expand_for_training, fold
from sartor.nn.sources import seeded
from sartor.train import CompactRecipe, prepare_compact

__all__ = [
    "BRANCHES",
    "FULL",
    "LONGER",
    "MIXED",
    "PLAIN",
    "QUICK",
    "TAUGHT",
    "TEACHER",
    "Schedule",
    "Trained",
    "published_gaps",
    "small_net",
    "train_all",
]

BATCH = 50
#: not tuned
LR = 3e-3
#: of epochs, for the control and the teacher
LONGER_BY = 2
TEACHER_BY = 3
SMOOTHING = 0.1

PLAIN = "plain"
LONGER = f"control: plain, {LONGER_BY} times the epochs"
BRANCHES = "branches, folded"
TAUGHT = "plain, with a teacher"
MIXED = "plain, with mixup"
TEACHER = "the teacher, 2 times as wide"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Epochs of the student, and the noise of the digits."""

    epochs: int
    noise: float


FULL = Schedule(epochs=6, noise=0.6)
#: a smoke test whose numbers mean little
QUICK = Schedule(epochs=2, noise=0.2)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One net after its training.

    Attributes:
        train_params: while it trains.
        params: as it is used.
        flops: of one image, as it is used.
        accuracy: on the validation split.
        averaged: accuracy of the averaged weights, folded.
        seconds: of the CPU in training.
        gap: largest change of a logit by folding, relative to the largest; 0 without branches.
        differing: share of validation images whose class folding changed.
    """

    train_params: int
    params: int
    flops: int
    accuracy: float
    averaged: float
    seconds: float
    gap: float = 0.0
    differing: float = 0.0


def small_net(width: int = 1) -> nn.Sequential:
    """Six of timm's inverted residuals on 8, 12 and 16 channels times ``width``."""
    block = require("timm.models._efficientnet_blocks").InvertedResidual
    a, b, c = (width * channels for channels in (8, 12, 16))
    pairs = ((a, a, 1), (a, b, 1), (b, b, 1), (b, c, 2), (c, c, 1), (c, c, 1))
    blocks = [block(i, o, stride=s, exp_ratio=3.0, act_layer=nn.ReLU6) for i, o, s in pairs]
    stem = (nn.Conv2d(1, a, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(a), nn.ReLU6())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))


def train_all(seed: int, schedule: Schedule) -> dict[str, Trained]:
    """Train every net of the comparison on the digits of one seed."""
    task = digits_task(noise=schedule.noise, seed=seed, image_size=(1, 16, 16), batch_size=BATCH)
    with seeded(seed):
        plain, teacher = small_net(), small_net(2)
    wide = expand_for_training(plain, task.batch(2), keep_function=False)
    e = schedule.epochs
    results = {TEACHER: _trained(teacher, task, seed, TEACHER_BY * e)}
    results[PLAIN] = _trained(_copy(plain), task, seed, e)
    results[LONGER] = _trained(_copy(plain), task, seed, LONGER_BY * e)
    results[BRANCHES] = _trained(wide, task, seed, e)
    results[TAUGHT] = _trained(_copy(plain), task, seed, e, teacher=teacher.eval())
    results[MIXED] = _trained(_copy(plain), task, seed, e, mixup=True)
    return results


def _trained(
    model: nn.Module,
    task: Task,
    seed: int,
    epochs: int,
    *,
    teacher: nn.Module | None = None,
    mixup: bool = False,
) -> Trained:
    train_params = count_params(model)
    began = time.process_time()
    averaged = _train(model, task, seed, epochs, teacher=teacher, mixup=mixup)
    seconds = time.process_time() - began
    used, mean, images = model.eval(), averaged.eval(), task.batch(2)
    gap = differing = 0.0
    if any(type(module).__name__ == "RepConvBN" for module in model.modules()):
        used, mean = fold(model, images), fold(averaged, images)
        gap, differing = _compared(model, used, task)
    return Trained(
        train_params=train_params,
        params=count_params(used),
        flops=count_flops(used, task.example),
        accuracy=task.evaluate(used, task.validation),
        averaged=task.evaluate(mean, task.validation),
        seconds=seconds,
        gap=gap,
        differing=differing,
    )


def _train(
    model: nn.Module,
    task: Task,
    seed: int,
    epochs: int,
    *,
    teacher: nn.Module | None,
    mixup: bool,
) -> nn.Module:
    """Train in place; return the averaged model."""
    recipe = CompactRecipe(
        epochs=epochs, optimizer="adamw", lr=LR, batch_size=BATCH, warmup_epochs=1
    )
    batches: Any = task.train
    training = prepare_compact(model.train(), recipe, steps_per_epoch=len(batches))
    soft = recipe.loss()
    with seeded(seed):
        for _ in range(epochs):
            for images, labels in batches:
                if teacher is not None:
                    with torch.no_grad():
                        taught = Outputs(teacher(images))
                    training.step(soft(Outputs(model(images)), taught, labels))
                elif mixup:
                    training.step(_mixup_loss(model, images, labels))
                else:
                    training.step(F.cross_entropy(model(images), labels, label_smoothing=SMOOTHING))
    return training.averaged


def _mixup_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of pairs of images, mixed by a share that is drawn from Beta(0.8, 0.8)."""
    share = torch.distributions.Beta(0.8, 0.8).sample()
    order = torch.randperm(len(images))
    logits = model(share * images + (1 - share) * images[order])
    one, other = (
        F.cross_entropy(logits, y, label_smoothing=SMOOTHING) for y in (labels, labels[order])
    )
    return share * one + (1 - share) * other


@torch.inference_mode()
def _compared(model: nn.Module, folded: nn.Module, task: Task) -> tuple[float, float]:
    batches = [images for images, _ in task.validation]
    expected = torch.cat([model(images) for images in batches])
    found = torch.cat([folded(images) for images in batches])
    gap = (expected - found).abs().max() / expected.abs().max()
    differing = (expected.argmax(1) != found.argmax(1)).float().mean()
    return float(gap), float(differing)


def _copy(model: nn.Sequential) -> nn.Module:
    made = small_net()
    made.load_state_dict(model.state_dict())
    return made


def published_gaps(names: Mapping[str, int]) -> dict[str, float]:
    """Change by folding of timm's nets with random statistics: name -> relative to the largest."""
    timm, gaps = require("timm"), {}
    for name, side in names.items():
        with seeded(0), torch.no_grad():
            model = timm.create_model(name).eval()
            images = torch.randn(2, 3, side, side)
            if not name.startswith("ghostnetv3"):
                model = expand_for_training(model, images)
                for norm in model.modules():
                    if isinstance(norm, nn.BatchNorm2d):
                        nn.init.normal_(norm.weight, 0.3, 0.1)
            for norm in model.modules():
                if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
                    norm.running_mean = torch.randn_like(norm.running_var) * 0.1
                    norm.running_var.uniform_(0.8, 1.2)
            expected, found = model(images), fold(model, images)(images)
        gaps[name] = float((expected - found).abs().max() / expected.abs().max())
    return gaps
