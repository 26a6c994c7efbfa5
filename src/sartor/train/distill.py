"""Distillation on the one training loop: any teacher, any student, any loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.core.modes import eval_mode
from sartor.core.task import Task
from sartor.losses.distiller import DistillationLoss, Outputs
from sartor.losses.named import make_distiller
from sartor.losses.taps import FeatureTaps
from sartor.nn.sources import seeded
from sartor.train.loop import History, TrainSettings, train
from sartor.train.per_sample import per_sample
from sartor.train.recipe.recipe import Recipe
from sartor.train.teacher import Teacher
from sartor.train.teacher_cache import TeacherCache

__all__ = ["DistillReport", "StudentAndLoss", "distill"]

#: inputs of the batch that shapes are looked up with
_PROBE = 2


@dataclass(frozen=True, kw_only=True)
class DistillReport:
    """What a distillation did.

    Attributes:
        loss: name of the loss's class.
        history: losses and seconds of each epoch.
        bridges: what was built where features differ in shape, a sentence each.
        bridge_params: parameters that trained beside the student and were dropped afterwards.
        cached: whether the teacher's words came from a cache.
        seconds: wall time, preparation included.
    """

    loss: str
    history: History
    bridges: tuple[str, ...] = ()
    bridge_params: int = 0
    cached: bool = False
    seconds: float = 0.0


def distill(
    student: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    *,
    loss: DistillationLoss | str = "vanilla",
    settings: TrainSettings | None = None,
    recipe: Recipe | None = None,
    cache: TeacherCache | None = None,
    teacher_resize: Sequence[int] | None = None,
    folder: Path | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    deadline: float = math.inf,
) -> DistillReport:
    """Train a student in place to do a task as a teacher does it.

    The teacher runs in eval mode without gradients, sees exactly the student's inputs, and is given
    back in the modes in which it came. What the loss built to bridge shapes trains with the student
    and is not part of it afterwards; no hook stays on either model.

    Args:
        student: maps (B, ...) to (B, K); left in eval mode on the device where it was.
        teacher: likewise, of the same classes; ``None`` if ``cache`` alone teaches.
        task: its training data and, for a named loss, its loss.
        loss: a :class:`~sartor.losses.DistillationLoss`, or a name in
            :data:`sartor.losses.DISTILLERS`.
        settings: of the training; default: ``TrainSettings()``.
        recipe: what makes the training cheaper; one that leaves samples out needs a loss of logits
            that is a mean over samples.
        cache: the teacher's logits on this very data, see
            :func:`~sartor.train.cache_teacher`; it is checked against the teacher, if one is given.
        teacher_resize: (C, H, W) that the teacher takes, where it is not what the student takes.
        folder: checkpoints go here after each epoch; an existing one is resumed.
        on_epoch: called with the number of epochs done and the mean loss.
        deadline: ``time.monotonic()`` after which no further epoch begins.

    Returns:
        What was done and what it took.

    Raises:
        TrainingError: the models' outputs differ in shape, one of them does not take the inputs,
            the teacher's outputs are not finite, the loss needs features that a cache does not
            have, or the training diverges.
        ArtifactError: the cache is of another teacher or of other data.

    Example:
        >>> from sartor.data import digits_task
        >>> from sartor.nn import tiny_vit
        >>> task = digits_task()
        >>> teacher, student = tiny_vit(embed_dim=32), tiny_vit(embed_dim=16)
        >>> report = distill(student, teacher, task, settings=TrainSettings(epochs=1))
        >>> report.loss, len(report.history.losses)
        ('VanillaKD', 1)
    """
    started = time.monotonic()
    if teacher is student:
        raise TrainingError("A model cannot be its own teacher; give a copy of it.")
    settings = settings or TrainSettings()
    taught_by = Teacher(teacher, resize=teacher_resize, cache=cache)
    if isinstance(loss, str):
        loss = _named(loss, student, teacher, task)
    _check_taps(loss, cached=cache is not None)
    batches = taught_by.open(task.train)
    with ExitStack() as opened:
        if teacher is not None:
            opened.enter_context(eval_mode(teacher))
        taps = opened.enter_context(FeatureTaps(student, loss.student_taps))
        taught_by.tap(opened, loss.teacher_taps)
        with seeded(settings.seed):
            bridges = _prepare(student, taps, taught_by, loss, task, batches)
        each = recipe is not None and recipe.data_pruning != "no"
        pair = StudentAndLoss(student, loss, taps, each=each)

        def value(pair: nn.Module, inputs: Tensor, targets: Tensor, *cached: Tensor) -> Tensor:
            return pair(inputs, targets, taught_by(inputs, *cached))  # type: ignore[no-any-return]

        history = train(
            pair,
            batches,
            value,
            settings,
            recipe=recipe,
            frozen=() if teacher is None else (teacher,),
            on_epoch=on_epoch,
            folder=folder,
            deadline=deadline,
        )
    return DistillReport(
        loss=type(loss).__name__,
        history=history,
        bridges=bridges,
        bridge_params=sum(p.numel() for p in loss.parameters()),
        cached=cache is not None,
        seconds=time.monotonic() - started,
    )


class StudentAndLoss(nn.Module):
    """Student and loss as one module, so that both train, are saved and are kept in step."""

    def __init__(
        self,
        student: nn.Module,
        loss: DistillationLoss,
        taps: FeatureTaps,
        *,
        each: bool = False,
    ) -> None:
        super().__init__()
        if each and (loss.student_taps or loss.teacher_taps):
            raise TrainingError(
                f"{type(loss).__name__} compares features of whole batches; a recipe that leaves "
                "samples out needs a loss of logits."
            )
        self.student, self.loss, self._taps = student, loss, taps
        self._each = per_sample(self._of_logits) if each else None

    def _of_logits(self, logits: Tensor, targets: Tensor, taught: Tensor) -> Tensor:
        value: Tensor = self.loss(Outputs(logits), Outputs(taught), targets)
        return value

    def forward(self, inputs: Tensor, targets: Tensor, taught: Outputs) -> Tensor:
        """The loss of one batch, or of each sample: inputs (B, ...), targets (B, ...) -> () or
        (B,).
        """
        logits = self.student(inputs)
        if self._each:
            return self._each(logits, targets, taught.logits)
        value: Tensor = self.loss(Outputs(logits, self._taps.take()), taught, targets)
        return value


def _named(
    name: str, student: nn.Module, teacher: nn.Module | None, task: Task
) -> DistillationLoss:
    if task.num_classes is None:
        raise TrainingError(
            f"The outputs of {task.name!r} are no classes, for which {name!r} is made; give "
            "loss=MatchOutputs(task.loss) or one of your own."
        )
    return make_distiller(
        name, student, student if teacher is None else teacher, label_loss=task.loss
    )


def _check_taps(loss: DistillationLoss, *, cached: bool) -> None:
    if cached and loss.teacher_taps:
        raise TrainingError(
            f"{type(loss).__name__} needs the teacher's features "
            f"({', '.join(loss.teacher_taps)}) and a cache holds its logits alone; leave cache= "
            "out."
        )


def _prepare(
    student: nn.Module,
    taps: FeatureTaps,
    taught_by: Teacher,
    loss: DistillationLoss,
    task: Task,
    batches: Any,
) -> tuple[str, ...]:
    """Look at one small batch: refuse what cannot be distilled, bridge what differs."""
    device = next(student.parameters()).device
    first = next(iter(batches), None)
    if first is None:
        raise TrainingError(f"The training data of {task.name!r} is empty; give one batch or more.")
    inputs, _, *cached = (part[:_PROBE].to(device) for part in first)
    taught = taught_by.probe(inputs, *cached)
    with torch.no_grad(), eval_mode(student):
        try:
            logits = student(inputs)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise TrainingError(
                f"The student does not take inputs of shape {tuple(inputs.shape[1:])} ({error}); "
                "give a student for the task's inputs."
            ) from error
        seen = Outputs(logits, taps.take())
    if logits.shape != taught.logits.shape:
        raise TrainingError(
            f"The student's outputs have the shape {tuple(logits.shape[1:])} and the teacher's "
            f"{tuple(taught.logits.shape[1:])}; distil between models of the same classes, for "
            "instance by giving one of them a new head."
        )
    if task.num_classes is not None and logits.shape[1] != task.num_classes:
        raise TrainingError(
            f"The models have {logits.shape[1]} classes and {task.name!r} has {task.num_classes}; "
            "give models for this task."
        )
    bridges = loss.prepare(seen, taught)
    loss.to(device)
    return bridges
