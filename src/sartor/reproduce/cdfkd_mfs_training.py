"""CDFKD-MFS's evidence, first half: teachers are trained on the digits, students on no digit at
all.

The data of the task that a student is given cannot be read: asking for them ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Task
from sartor.core.task import accuracy
from sartor.data import digits_task
from sartor.measure import count_params
from sartor.nn.cdfkd_mfs.head_attention import AttentiveStudent
from sartor.nn.cdfkd_mfs.image_generators import ImageGenerator
from sartor.nn.cdfkd_mfs.multi_head import MultiHeadStudent
from sartor.nn.sources import seeded
from sartor.reproduce.cdfkd_mfs_nets import conv_student, conv_teacher, sealed
from sartor.train import TrainSettings, train
from sartor.train.cdfkd_mfs.distiller import distill_data_free
from sartor.train.cdfkd_mfs.head_attention import fit_head_attention_
from sartor.train.cdfkd_mfs.settings import DataFreeSettings, DataFreeWeights

__all__ = [
    "ATTENTION",
    "ENSEMBLE",
    "FULL",
    "LONGER",
    "METHOD",
    "NO_ADVERSARY",
    "NO_FEATURES",
    "NO_PRIOR",
    "QUICK",
    "SIMPLE",
    "SINGLE",
    "TEACHERS",
    "UNTRAINED",
    "Distilled",
    "Schedule",
    "train_all",
]

TEACHERS = 3
LATENT = 32
#: half the paper's width: as good on the selection split of seed 0, and cheaper
GENERATOR_WIDTH = 64
LABELLED = 50

ENSEMBLE = "teachers, mean of logits (real images)"
METHOD = "CDFKD-MFS, 3 teachers"
SINGLE = "one teacher, one head (DFAD with prior)"
LONGER = "one teacher, one head, twice as long"
SIMPLE = "heads that share no levels (CDFKD)"
NO_PRIOR = "without the batch-norm prior"
NO_ADVERSARY = "without the adversarial term"
NO_FEATURES = "without the feature term"
UNTRAINED = "generator left untrained"
ATTENTION = f"attention from {LABELLED} labelled images"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long: iterations of the students, epochs of the teachers."""

    iterations: int
    epochs: int = 15


FULL = Schedule(iterations=120)
QUICK = Schedule(iterations=30)


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """One student, or the teachers, after training; ``reads`` counts how often data were asked for
    while the student was trained.
    """

    accuracy: float
    heads: tuple[float, ...]
    params: int
    iterations: int
    seconds: float
    reads: int = 0


def train_all(seed: int, schedule: Schedule, *, ablate: bool) -> dict[str, Distilled]:
    """Train the teachers, then every student of the comparison without data.

    Args:
        seed: of split, weights, order and noise.
        schedule: how long.
        ablate: whether to take the method apart, too.
    """
    task = digits_task(noise=0.0, seed=seed)
    teachers, seconds = _teachers(task, seed, schedule)
    split = _whole(task.validation)
    made = {ENSEMBLE: _measured_teachers(teachers, split, seconds)}
    plain, full = DataFreeWeights(), schedule.iterations

    def distil(
        name: str, heads: int, iterations: int, weights: DataFreeWeights, **more: Any
    ) -> Any:
        made[name], student = _distil(
            task, teachers[:heads], split, seed, iterations, weights, **more
        )
        return student

    student = distil(METHOD, TEACHERS, full, plain)
    made[ATTENTION] = _attentive(student, task, split, seed)
    distil(SINGLE, 1, full, replace(plain, ensemble=0.0))
    distil(LONGER, 1, 2 * full, replace(plain, ensemble=0.0))
    if ablate:
        distil(SIMPLE, TEACHERS, full, plain, kind="last")
        distil(NO_PRIOR, TEACHERS, full, replace(plain, statistics=0.0))
        distil(NO_ADVERSARY, TEACHERS, full, replace(plain, adversarial=0.0))
        distil(NO_FEATURES, TEACHERS, full, replace(plain, feature=0.0))
        distil(UNTRAINED, TEACHERS, full, plain, generator_lr=1e-12)
    return made


def _distil(
    task: Task,
    teachers: Sequence[nn.Module],
    split: Sequence[tuple[Tensor, Tensor]],
    seed: int,
    iterations: int,
    weights: DataFreeWeights,
    *,
    kind: str = "levels",
    generator_lr: float = 1e-3,
) -> tuple[Distilled, MultiHeadStudent]:
    """One student from teachers alone, and how good it is."""
    began = time.process_time()
    student = conv_student(len(teachers), seed, kind=kind)
    with seeded(seed):
        generator = ImageGenerator(
            latent_dim=LATENT, image_size=8, channels=1, width=GENERATOR_WIDTH
        )
    for model in (student, generator):
        model.to(memory_format=torch.channels_last)  # what CPU convolutions like
    settings = DataFreeSettings(
        iterations=iterations,
        batch_size=64,
        generator_lr=generator_lr,
        weights=weights,
        seed=seed,
    )
    blind, data = sealed(task)
    distill_data_free(student, teachers, blind, generator=generator, settings=settings)
    seconds = time.process_time() - began
    found = Distilled(
        accuracy=_accuracy(student, split),
        heads=tuple(_accuracy(student.select_heads([i]), split) for i in range(len(teachers))),
        params=count_params(student),
        iterations=iterations,
        seconds=seconds,
        reads=data.reads,
    )
    return found, student


def _attentive(
    student: MultiHeadStudent, task: Task, split: Sequence[tuple[Tensor, Tensor]], seed: int
) -> Distilled:
    """The student with weighed heads; the few labelled images come after its distillation."""
    began = time.process_time()
    with seeded(seed):
        model = AttentiveStudent(student)
        images, labels = next(iter(task.train))
    fit_head_attention_(model, [(images[:LABELLED], labels[:LABELLED])])
    return Distilled(
        accuracy=_accuracy(model, split),
        heads=(),
        params=count_params(model),
        iterations=0,
        seconds=time.process_time() - began,
    )


def _teachers(task: Task, seed: int, schedule: Schedule) -> tuple[list[nn.Module], float]:
    began = time.process_time()
    teachers = [conv_teacher(10 * seed + number) for number in range(TEACHERS)]
    for number, teacher in enumerate(teachers):
        settings = TrainSettings(epochs=schedule.epochs, lr=3e-3, seed=10 * seed + number)
        train(teacher, task.train, _loss, settings)
        teacher.to(memory_format=torch.channels_last)
    return teachers, time.process_time() - began


def _measured_teachers(
    teachers: Sequence[nn.Module], split: Sequence[tuple[Tensor, Tensor]], seconds: float
) -> Distilled:
    def ensemble(images: Tensor) -> Tensor:
        return torch.stack([teacher(images) for teacher in teachers]).mean(dim=0)

    with torch.inference_mode():
        return Distilled(
            accuracy=accuracy(ensemble, split),
            heads=tuple(accuracy(teacher, split) for teacher in teachers),
            params=sum(map(count_params, teachers)),
            iterations=0,
            seconds=seconds,
        )


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), targets)


def _whole(batches: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The same images in batches of 256, which are faster to evaluate."""
    inputs, targets = (torch.cat(parts).split(256) for parts in zip(*batches, strict=True))
    return list(zip(inputs, targets, strict=True))


@torch.inference_mode()
def _accuracy(model: nn.Module, split: Iterable[tuple[Tensor, Tensor]]) -> float:
    return accuracy(model.eval(), split)
