"""Cross entropy against a teacher's soft labels, as the GhostNetV3 recipe distils.

Source: Liu, Hao, Han, Tang, Wang, GhostNetV3, 2024, arXiv 2404.11202. Deviations: the value is
    multiplied by the squared temperature, so that its gradient keeps its scale; the released code
    uses a temperature of 1. Unlike :func:`~sartor.losses.kd_loss` the teacher's entropy is part of
    the value; the gradients of both are the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import TrainingError
from sartor.losses.distiller import DistillationLoss, Outputs

__all__ = ["SoftLabelKD", "soft_label_loss"]


def soft_label_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """- T^2 * sum_k softmax(teacher / T)_k * log softmax(student / T)_k, mean over the batch.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K); no gradient flows into it.
        temperature: T, above 0.

    Returns:
        Scalar; T^2 times the teacher's entropy where both agree.

    Raises:
        TrainingError: shapes differ or the temperature is not positive.

    Example:
        >>> import torch
        >>> soft_label_loss(torch.zeros(1, 2), torch.tensor([[5.0, -1.0]]))  # log 2, always
        tensor(0.6931)
    """
    if student_logits.shape != teacher_logits.shape:
        raise TrainingError(
            f"The student's logits {tuple(student_logits.shape)} and the teacher's "
            f"{tuple(teacher_logits.shape)} differ in shape; distil between models of the same "
            "classes."
        )
    if temperature <= 0:
        raise TrainingError(f"The temperature must be above 0, got {temperature}.")
    soft = (teacher_logits.detach() / temperature).softmax(dim=1)  # (B, K)
    return temperature**2 * F.cross_entropy(student_logits / temperature, soft)


class SoftLabelKD(DistillationLoss):
    """label_weight * smoothed cross entropy + weight * :func:`soft_label_loss`.

    Args:
        weight: of the teacher, at least 0.
        label_weight: of the labels, at least 0.
        temperature: above 0.
        label_smoothing: share of each label that is spread over all classes, in [0, 1).

    Raises:
        TrainingError: a setting is out of range.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        label_weight: float = 1.0,
        temperature: float = 1.0,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        if not (min(weight, label_weight) >= 0 and temperature > 0 and 0 <= label_smoothing < 1):
            raise TrainingError(
                "SoftLabelKD takes weights >= 0, a temperature > 0 and label_smoothing in [0, 1), "
                f"got {weight}, {label_weight}, {temperature} and {label_smoothing}."
            )
        self.weight, self.label_weight = weight, label_weight
        self.temperature, self.label_smoothing = temperature, label_smoothing

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        """Scalar; see the class."""
        soft = soft_label_loss(student.logits, teacher.logits, temperature=self.temperature)
        hard = F.cross_entropy(student.logits, targets, label_smoothing=self.label_smoothing)
        return self.label_weight * hard + self.weight * soft
