"""Cross entropy against a teacher's soft labels, as the GhostNetV3 recipe distils.

Source: Liu, Hao, Han, Tang, Wang, GhostNetV3, 2024, arXiv 2404.11202, section 3.2. Deviations: the
    value is multiplied by the squared temperature, so that its gradient keeps its scale; the paper
    and its code use a temperature of 1. Unlike :func:`~sartor.losses.kd_loss` the teacher's entropy
    is part of the value; the gradients of both are the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["soft_label_loss"]


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
