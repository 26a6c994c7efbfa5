"""Distillers of logits that weigh labels against the teacher, and one for outputs of any kind.

Source: Hinton, Vinyals, Dean, 2015, arXiv 1503.02531 (soft); Touvron et al., DeiT, 2021, arXiv
    2012.12877, equation 3 (hard). Deviations: none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import TrainingError
from sartor.losses.distillation import distillation_loss
from sartor.losses.distiller import DistillationLoss, Outputs

__all__ = ["LogitKD", "MatchOutputs"]

LabelLoss = Callable[[Tensor, Tensor], Tensor]


class LogitKD(DistillationLoss):
    """(1 - alpha) * loss of the labels + alpha * the teacher's word; short trainings prefer it.

    Args:
        mode: ``hard``: the teacher's highest class is a second label; ``soft``: its softened
            outputs are the goal.
        alpha: weight of the teacher, in [0, 1].
        temperature: of ``soft``, above 0.
        label_loss: (logits, targets) -> scalar.

    Raises:
        TrainingError: when called, if a setting is out of range.
    """

    def __init__(
        self,
        mode: str = "soft",
        *,
        alpha: float = 0.9,
        temperature: float = 4.0,
        label_loss: LabelLoss = F.cross_entropy,
    ) -> None:
        super().__init__()
        self.mode, self.alpha, self.temperature = mode, alpha, temperature
        self.label_loss = label_loss

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        """Scalar; see the class."""
        return distillation_loss(
            student.logits,
            targets,
            teacher.logits,
            alpha=self.alpha,
            mode=self.mode,
            temperature=self.temperature,
            label_loss=self.label_loss,
        )


class MatchOutputs(DistillationLoss):
    """(1 - alpha) * the task's loss + alpha * mean squared difference of the outputs.

    For models whose outputs are no classes, such as denoisers.

    Args:
        label_loss: the task's, (outputs, targets) -> scalar.
        alpha: weight of the teacher, in [0, 1].

    Raises:
        TrainingError: ``alpha`` is out of range.
    """

    def __init__(self, label_loss: LabelLoss, *, alpha: float = 0.5) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise TrainingError(f"MatchOutputs takes alpha in [0, 1], got {alpha}.")
        self.label_loss, self.alpha = label_loss, alpha

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        """Scalar; see the class."""
        gap = F.mse_loss(student.logits, teacher.logits.detach())
        return (1 - self.alpha) * self.label_loss(student.logits, targets) + self.alpha * gap
