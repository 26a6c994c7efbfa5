"""CDFKD-MFS: several trained classifiers become one small one, and no training image is read.

A generator makes images that look familiar to the teachers' batch norms and on which student and
teachers disagree; a student with one light head for each teacher learns to agree.

Source: Hao, Luo, Wang, Hu, An, CDFKD-MFS: Collaborative Data-free Knowledge Distillation via
    Multi-level Feature Sharing, IEEE Transactions on Multimedia 2022, arXiv 2205.11845. Deviations:
    milestones are shares of the training instead of epochs, as there is nothing to have epochs of;
    see ``data_free_steps`` for how the generator's gradient is taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.core.modes import eval_mode
from sartor.core.task import Task
from sartor.nn.cdfkd_mfs.image_generators import generator_for
from sartor.nn.cdfkd_mfs.multi_head import MultiHeadStudent
from sartor.train.cdfkd_mfs.checks import check_data_free
from sartor.train.cdfkd_mfs.settings import DataFreeSettings
from sartor.train.cdfkd_mfs.steps import image_gradient, student_objective

__all__ = [
    "DataFreeDistiller",
    "DataFreeHistory",
    "distill_data_free",
]


@dataclass(kw_only=True)
class DataFreeHistory:
    """What happened, one number an iteration.

    Attributes:
        student: loss of the last student step.
        distance: between heads and teachers on the generator's images, which it raises: if it
            grows without end, the generator has won.
        prior: distance of the images' statistics to those of the teachers' batch norms.
        stopped: ``deadline`` if it ended early.
    """

    student: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    prior: list[float] = field(default_factory=list)
    stopped: str = ""


class DataFreeDistiller:
    """Holds student, generator and their optimisers; :meth:`step` is one iteration.

    Args:
        student: trained in place; one head for each teacher.
        teachers: trained classifiers on the same device; run in eval mode, given back in their own.
        generator: makes images from noise of its ``latent_dim``; trained in place.
        settings: see :class:`DataFreeSettings`.
        classes: names of each teacher's classes in its own order, if they are known.

    Raises:
        TrainingError: teachers, student and generator do not fit together; says which and why.
    """

    def __init__(
        self,
        student: MultiHeadStudent,
        teachers: Sequence[nn.Module],
        generator: nn.Module,
        settings: DataFreeSettings | None = None,
        *,
        classes: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.settings = settings or DataFreeSettings()
        self.student, self.teachers, self.generator = student, tuple(teachers), generator
        check_data_free(student, self.teachers, generator, self.settings.weights, classes=classes)
        self.device = next(student.parameters()).device
        self.student_optimizer = torch.optim.SGD(
            student.parameters(),
            lr=self.settings.student_lr,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
        )
        self.generator_optimizer = torch.optim.Adam(
            generator.parameters(), lr=self.settings.generator_lr
        )
        self.iteration = 0
        self.history = DataFreeHistory()
        self._noise = torch.Generator().manual_seed(self.settings.seed)

    def images(self) -> Tensor:
        """Make a batch of images (B, C, H, W) from fresh noise."""
        shape = (self.settings.batch_size, self.generator.latent_dim)
        latents = torch.randn(shape, generator=self._noise).to(self.device)  # (B, z)
        made: Tensor = self.generator(latents)
        return made

    def step(self) -> None:
        """Train the student ``student_steps`` times and the generator once.

        Raises:
            TrainingError: a loss is not finite.
        """
        self._set_rates()
        self.student.train()
        self.generator.train()
        with eval_mode(*self.teachers):
            for _ in range(self.settings.student_steps):
                loss = self._student_step()
            distance, prior = self._generator_step()
        for name, value in (("student", loss), ("distance", distance), ("prior", prior)):
            number = float(value)
            if not math.isfinite(number):
                raise TrainingError(
                    f"The {name} loss became {number} in iteration {self.iteration + 1}; lower "
                    f"student_lr (now {self.settings.student_lr:g}) or generator_lr (now "
                    f"{self.settings.generator_lr:g})."
                )
            getattr(self.history, name).append(number)
        self.iteration += 1

    def fit(
        self,
        *,
        on_iteration: Callable[[int, DataFreeHistory], None] | None = None,
        deadline: float = math.inf,
    ) -> DataFreeHistory:
        """Take every step that is left; the student is left in eval mode.

        Args:
            on_iteration: called with the number of iterations done and the history so far.
            deadline: ``time.monotonic()`` after which no further iteration begins; one is always
                done.
        """
        while self.iteration < self.settings.iterations:
            self.step()
            if on_iteration:
                on_iteration(self.iteration, self.history)
            if time.monotonic() > deadline and self.iteration < self.settings.iterations:
                self.history.stopped = "deadline"
                break
        self.student.eval()
        self.generator.eval()
        return self.history

    def state_dict(self) -> dict[str, Any]:
        """Everything with which a later :meth:`fit` goes on as if it had not stopped."""
        return {
            "iteration": self.iteration,
            "student": self.student.state_dict(),
            "generator": self.generator.state_dict(),
            "student_optimizer": self.student_optimizer.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "noise": self._noise.get_state(),
            "history": {
                key: value if isinstance(value, str) else list(value)
                for key, value in vars(self.history).items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`, for the same models and settings."""
        for name in ("student", "generator", "student_optimizer", "generator_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.iteration = state["iteration"]
        self._noise.set_state(state["noise"])
        self.history = DataFreeHistory(**{**state["history"], "stopped": ""})

    def _student_step(self) -> Tensor:
        with torch.no_grad():
            images = self.images()
        loss = student_objective(self.student, self.teachers, images, self.settings.weights)
        self.student_optimizer.zero_grad()
        loss.backward()
        self.student_optimizer.step()
        return loss.detach()

    def _generator_step(self) -> tuple[Tensor, Tensor]:
        images = self.images()
        gradient, distance, prior = image_gradient(
            self.student, self.teachers, images, self.settings.weights
        )
        self.generator_optimizer.zero_grad()
        images.backward(gradient)
        self.generator_optimizer.step()
        return distance, prior

    def _set_rates(self) -> None:
        factor = self.settings.rate_factor(self.iteration)
        for optimizer, rate in (
            (self.student_optimizer, self.settings.student_lr),
            (self.generator_optimizer, self.settings.generator_lr),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor


def distill_data_free(
    student: MultiHeadStudent,
    teachers: Sequence[nn.Module],
    task: Task,
    *,
    generator: nn.Module | None = None,
    settings: DataFreeSettings | None = None,
    classes: Sequence[Sequence[str]] | None = None,
    on_iteration: Callable[[int, DataFreeHistory], None] | None = None,
) -> DataFreeHistory:
    """Train a student in place from teachers alone.

    Of the task only the shape of an input and the number of classes are read, and none of its data.

    Args:
        student: one head for each teacher; left in eval mode.
        teachers: trained classifiers of the task.
        task: says what an image and how many classes there are.
        generator: default: :func:`generator_for` the task's images, made after ``settings.seed``.
        settings: see :class:`DataFreeSettings`.
        classes: names of each teacher's classes in its own order, if they are known.
        on_iteration: called with the number of iterations done and the history so far.

    Raises:
        TrainingError: something does not fit together, or a loss is not finite.
    """
    settings = settings or DataFreeSettings()
    if task.num_classes is not None and task.num_classes != student.num_classes:
        raise TrainingError(
            f"The task has {task.num_classes} classes and the student {student.num_classes}; make "
            f"the student with num_classes={task.num_classes}."
        )
    if generator is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            generator = generator_for(task.input_shape)
        generator.to(next(student.parameters()).device)
    distiller = DataFreeDistiller(student, teachers, generator, settings, classes=classes)
    return distiller.fit(on_iteration=on_iteration)
