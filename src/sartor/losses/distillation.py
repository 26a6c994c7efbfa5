"""Distillation from logits: the student learns labels and teacher at once.

Source: Hinton, Vinyals, Dean, 2015, arXiv 1503.02531 (soft); Touvron et al., DeiT, 2021, arXiv
2012.12877, equation 3 (hard).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["MODES", "distillation_loss", "kd_loss"]

MODES = ("hard", "soft")


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), summed over classes, mean over the
    batch.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K); no gradient flows into it.
        temperature: T, above 0.

    Returns:
        Scalar; 0 where both agree up to a shift of each row.

    Raises:
        TrainingError: shapes differ or the temperature is not positive.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1, 2, 0.5], [0, -1, 3]])
        >>> t = torch.tensor([[2.0, 1, 0], [-1, 0.5, 2]])
        >>> round(kd_loss(z, t).item(), 6)
        0.347529
    """
    if student_logits.shape != teacher_logits.shape:
        raise TrainingError(
            f"The student's logits {tuple(student_logits.shape)} and the teacher's "
            f"{tuple(teacher_logits.shape)} "
            "differ in shape; distil between models of the same classes."
        )
    if temperature <= 0:
        raise TrainingError(f"The temperature must be above 0, got {temperature}.")
    student = F.log_softmax(student_logits / temperature, dim=1)  # (B, K)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)  # (B, K)
    # what F.kl_div computes, in operations that torch.func can map over samples
    divergence = (teacher.exp() * (teacher - student)).sum() / len(student)
    return temperature**2 * divergence


def distillation_loss(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.5,
    mode: str = "hard",
    temperature: float = 1.0,
    label_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """(1 - alpha) * loss of the labels + alpha * a loss against the teacher.

    Args:
        logits: the student's (B, K).
        labels: (B,).
        teacher_logits: (B, K); no gradient flows into it.
        alpha: weight of the teacher, in [0, 1].
        mode: ``hard`` takes the teacher's highest class as a second label (SN-Net, DeiT); ``soft``
            is :func:`kd_loss`.
        temperature: of the soft loss.
        label_loss: (logits, labels) -> scalar; default: cross entropy.

    Raises:
        TrainingError: a setting is out of range.
    """
    if mode not in MODES or not 0 <= alpha <= 1:
        raise TrainingError(
            f"Distillation takes mode 'hard' or 'soft' and alpha in [0, 1], got {mode!r} and "
            f"{alpha}."
        )
    if mode == "hard":
        second = F.cross_entropy(logits, teacher_logits.argmax(dim=1))
    else:
        second = kd_loss(logits, teacher_logits, temperature)
    return (1 - alpha) * label_loss(logits, labels) + alpha * second
