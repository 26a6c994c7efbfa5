"""The largest anchor as the teacher of a run: of the elastic net, and of every changed model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Task
from sartor.core.errors import TrainingError
from sartor.fit.processes import is_main, meet
from sartor.fit.saving import saving_recipe
from sartor.fit.settings import FitSettings
from sartor.losses import (
    DistillationLoss,
    MatchOutputs,
    default_distiller,
    distillation_loss,
    make_distiller,
)
from sartor.train import (
    DistillReport,
    TeacherCache,
    TrainSettings,
    cache_teacher,
    distill,
    never_varies,
)
from sartor.train.per_sample import per_sample

__all__ = ["Teaching"]

#: weight of the teacher in the recovery of models without classes
_OUTPUTS_ALPHA = 0.9


class Teaching:
    """Lessons of one teacher on one task.

    Training inputs that never vary are shown to the teacher once: its logits are kept in the run's
    folder, and every later training reads them.

    Args:
        teacher: the largest anchor.
        task: its training data and loss.
        settings: of the run.
        folder: of the kept logits.
    """

    def __init__(self, teacher: nn.Module, task: Task, settings: FitSettings, folder: Path) -> None:
        self.teacher, self.task, self.settings, self.folder = teacher, task, settings, folder

    @cached_property
    def cache(self) -> TeacherCache | None:
        """The teacher's logits; ``None`` where it has to be asked about every batch."""
        if self.task.num_classes is None or not never_varies(self.task.train):
            return None
        if is_main():
            cache_teacher(self.teacher, self.task.train, self.folder, dtype="float32")
        meet()
        return TeacherCache(self.folder)

    def batches(self) -> Any:
        """The training data, with the teacher's logits beside them where they are kept."""
        return self.task.train if self.cache is None else self.cache.beside(self.task.train)

    def loss(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, taught: Tensor | None = None
    ) -> Tensor:
        """Labels, and what the teacher sees: its class (SN-Net), or its outputs where there are no
        classes.

        Args:
            model: maps inputs to outputs.
            inputs: (B, ...).
            targets: (B, ...).
            taught: the teacher's outputs on these inputs, if they are known.

        Raises:
            TrainingError: the teacher's outputs are not finite.
        """
        taught = self._asked(inputs) if taught is None else taught
        return self._measured(model(inputs), targets, taught)

    @cached_property
    def _measured(self) -> Callable[..., Tensor]:
        """The loss of outputs; of each sample if samples are to be left out by it."""
        return per_sample(self._mean_loss) if "data" in self.settings.save else self._mean_loss

    def _mean_loss(self, outputs: Tensor, targets: Tensor, taught: Tensor) -> Tensor:
        alpha = self.settings.alpha
        if self.task.num_classes is None:
            labels = self.task.loss(outputs, targets)
            return (1 - alpha) * labels + alpha * F.mse_loss(outputs, taught)
        return distillation_loss(outputs, targets, taught, alpha=alpha, label_loss=self.task.loss)

    def recover(self, model: nn.Module) -> DistillReport:
        """Train a changed model in place, as the settings ask.

        Raises:
            TrainingError: the loss is not finite, or the two models do not match.
        """
        settings = TrainSettings(
            epochs=self.settings.recovery_epochs,
            lr=self.settings.recovery_lr,
            weight_decay=self.settings.weight_decay,
            precision=self.settings.precision,
            seed=self.settings.seed,
        )
        loss, cache = self._recovery_loss(model), self.cache
        alone = cache is not None and not loss.teacher_taps
        return distill(
            model,
            None if alone else self.teacher,
            self.task,
            loss=loss,
            settings=settings,
            cache=cache if alone else None,
            recipe=saving_recipe(self.settings.save, model),
        )

    def distiller(self, model: nn.Module) -> str:
        """Name of what a changed model learns by."""
        if self.task.num_classes is None:
            return "outputs"
        asked = self.settings.recovery
        return default_distiller(model, self.teacher) if asked == "auto" else asked

    def _asked(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            taught: Tensor = self.teacher(inputs)
        if not bool(torch.isfinite(taught).all()):
            raise TrainingError(
                "The largest anchor gives outputs that are not finite; repair or leave it out."
            )
        return taught

    def _recovery_loss(self, model: nn.Module) -> DistillationLoss:
        if self.task.num_classes is None:  # no classes to agree on: the outputs are the goal
            return MatchOutputs(self.task.loss, alpha=_OUTPUTS_ALPHA)
        return make_distiller(self.distiller(model), model, self.teacher, label_loss=self.task.loss)
