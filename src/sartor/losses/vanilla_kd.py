"""Vanilla distillation at full strength: labels and the plain loss of Hinton et al., T = 1.

Source: Hao et al., Revisit the Power of Vanilla Knowledge Distillation: from Small Scale to Large
    Scale, NeurIPS 2023, arXiv 2305.15781; the labels' binary cross entropy is that of Wightman,
    Touvron, Jegou, ResNet strikes back, 2021, arXiv 2110.00476. Deviations: none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import TrainingError
from sartor.losses.distillation import kd_loss
from sartor.losses.distiller import DistillationLoss, Outputs

__all__ = ["VanillaKD", "bce_loss"]

LabelLoss = Callable[[Tensor, Tensor], Tensor]


def bce_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross entropy of every class, mean over B * K.

    Args:
        logits: (B, K).
        targets: labels (B,), which are made one-hot and smoothed, or mixed targets (B, K), which
            are taken as they are.
        smoothing: share of a label that is spread over all classes, in [0, 1).

    Raises:
        TrainingError: the smoothing is out of range, or mixed targets have other classes.

    Example:
        >>> import torch
        >>> bce_loss(torch.zeros(2, 4), torch.tensor([0, 3]))  # log 2, always
        tensor(0.6931)
    """
    if not 0 <= smoothing < 1:
        raise TrainingError(f"The smoothing of labels must lie in [0, 1), got {smoothing}.")
    if targets.ndim == 1:
        one_hot = F.one_hot(targets, logits.shape[1]).to(logits.dtype)  # (B, K)
        targets = one_hot * (1 - smoothing) + smoothing / logits.shape[1]
    if targets.shape != logits.shape:
        raise TrainingError(
            f"Mixed targets of shape {tuple(targets.shape)} do not fit logits of shape "
            f"{tuple(logits.shape)}; give labels (B,) or a target for every class."
        )
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


class VanillaKD(DistillationLoss):
    """label_weight * loss of the labels + teacher_weight * T^2 * KL(teacher || student).

    It needs logits alone, so the teacher may be cached, and has no parameters.

    Args:
        temperature: T, above 0; 1 suffices at scale.
        label_weight: at least 0.
        teacher_weight: at least 0.
        label_loss: (logits, targets) -> scalar. The paper's strong recipe takes
            :func:`bce_loss`, its short ones cross entropy. With binary cross entropy the student's
            highest class is as good, its probabilities are not calibrated.

    Raises:
        TrainingError: a setting is out of range.

    Example:
        >>> import torch
        >>> loss = VanillaKD(label_loss=bce_loss)
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> loss(Outputs(z), Outputs(z), torch.tensor([1]))  # of the labels alone
        tensor(0.7201)
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        label_weight: float = 1.0,
        teacher_weight: float = 1.0,
        label_loss: LabelLoss = F.cross_entropy,
    ) -> None:
        super().__init__()
        if temperature <= 0 or min(label_weight, teacher_weight) < 0:
            raise TrainingError(
                "VanillaKD takes a temperature above 0 and weights of at least 0, got "
                f"{temperature}, {label_weight} and {teacher_weight}."
            )
        self.temperature, self.label_loss = temperature, label_loss
        self.label_weight, self.teacher_weight = label_weight, teacher_weight

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        """Scalar; see the class."""
        labels = self.label_loss(student.logits, targets)
        taught = kd_loss(student.logits, teacher.logits, self.temperature)
        return self.label_weight * labels + self.teacher_weight * taught
