"""The terms of collaborative data-free distillation, as functions of tensors.

Source: Hao, Luo, Wang, Hu, An, CDFKD-MFS, IEEE Transactions on Multimedia 2022, arXiv 2205.11845.
    Deviations: none; logits are compared and averaged, not probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["ensemble_loss", "feature_loss", "head_loss"]


def head_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean absolute difference of each head's logits to those of its teacher.

    Args:
        student_logits: (n, B, K).
        teacher_logits: (n, B, K); no gradient is stopped here, as a generator learns through both.

    Returns:
        Scalar, 0 where all agree.

    Raises:
        TrainingError: the shapes differ.

    Example:
        >>> import torch
        >>> head_loss(torch.zeros(2, 1, 2), torch.tensor([[[1.0, 3]], [[0, 0]]])).item()
        1.0
    """
    _check_logits(student_logits, teacher_logits)
    return F.l1_loss(student_logits, teacher_logits)


def ensemble_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean absolute difference between the heads' mean logits and the teachers' mean logits.

    Args:
        student_logits: (n, B, K).
        teacher_logits: (n, B, K).

    Returns:
        Scalar; at most :func:`head_loss`, and equal to it for n = 1.

    Raises:
        TrainingError: the shapes differ.

    Example:
        >>> import torch
        >>> ensemble_loss(torch.zeros(2, 1, 1), torch.tensor([[[1.0]], [[-1.0]]])).item()
        0.0
    """
    _check_logits(student_logits, teacher_logits)
    return F.l1_loss(student_logits.mean(dim=0), teacher_logits.mean(dim=0))


def feature_loss(student_features: Tensor, teacher_features: Sequence[Tensor]) -> Tensor:
    """Absolute differences of pooled features, summed over channels, mean over heads and batch.

    Args:
        student_features: (n, B, d).
        teacher_features: n tensors (B, d).

    Returns:
        Scalar, 0 where all agree.

    Raises:
        TrainingError: the widths differ; nothing projects them in silence.

    Example:
        >>> import torch
        >>> feature_loss(torch.zeros(1, 2, 3), [torch.ones(2, 3)]).item()
        3.0
    """
    if len(teacher_features) != len(student_features):
        raise TrainingError(
            f"There are features of {len(student_features)} heads and {len(teacher_features)} "
            "teachers; give each head its teacher."
        )
    total = student_features.new_zeros(())
    for ours, theirs in zip(student_features, teacher_features, strict=True):
        if ours.shape != theirs.shape:
            raise TrainingError(
                f"The student's features have width {ours.shape[-1]} and the teacher's width "
                f"{theirs.shape[-1]}; take models of one width or set the feature weight to 0."
            )
        total = total + (ours - theirs).abs().sum(dim=-1).mean()
    return total / len(teacher_features)


def _check_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape:
        raise TrainingError(
            f"The heads' logits {tuple(student_logits.shape)} and the teachers' "
            f"{tuple(teacher_logits.shape)} differ in shape (teachers, batch, classes); give each "
            "head one teacher of the same classes."
        )
