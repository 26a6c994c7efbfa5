"""The two steps of data-free distillation: what the student and what the generator learn from.

Source: Hao, Luo, Wang, Hu, An, CDFKD-MFS, IEEE Transactions on Multimedia 2022, arXiv 2205.11845.
    Deviations: the generator's gradient is taken with respect to its images, teacher by teacher,
    and only then sent through the generator; it is the same gradient, holds the graph of one
    teacher at a time, and leaves none in student and teachers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sartor.losses.batch_norm_statistics import BatchNormStatistics
from sartor.losses.data_free import ensemble_loss, feature_loss, head_loss
from sartor.nn.cdfkd_mfs.multi_head import MultiHeadStudent
from sartor.nn.classifier_input import logits_and_features
from sartor.train.cdfkd_mfs.settings import DataFreeWeights

__all__ = ["image_gradient", "student_objective"]


def student_objective(
    student: MultiHeadStudent,
    teachers: Sequence[nn.Module],
    images: Tensor,
    weights: DataFreeWeights,
) -> Tensor:
    """Sum up head * heads' term + feature * features' term + ensemble * mean logits' term.

    Args:
        student: with one head for each teacher.
        teachers: in eval mode; run without gradients.
        images: (B, C, H, W), detached from what made them.
        weights: of the terms.

    Returns:
        Scalar, differentiable in the student alone.

    Raises:
        TrainingError: heads and teachers do not fit together.
    """
    logits, features = student.forward_heads(images)  # (n, B, K), (n, B, d)
    with torch.no_grad():
        if weights.feature:
            pairs = [logits_and_features(teacher, images) for teacher in teachers]
            targets = torch.stack([pair[0] for pair in pairs])  # (n, B, K)
        else:
            targets = torch.stack([teacher(images) for teacher in teachers])  # (n, B, K)
    loss = weights.head * head_loss(logits, targets)
    if weights.feature:
        loss = loss + weights.feature * feature_loss(features, [pair[1] for pair in pairs])
    return loss + weights.ensemble * ensemble_loss(logits, targets)


def image_gradient(
    student: MultiHeadStudent,
    teachers: Sequence[nn.Module],
    images: Tensor,
    weights: DataFreeWeights,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the generator's loss with respect to its images; no parameter gets one.

    The loss is the mean over teachers of statistics * prior - adversarial * distance of the head:
    the generator makes images on which student and teachers disagree and which look familiar to the
    teachers. Features and mean logits are not in it.

    Args:
        student: with one head for each teacher; in training mode its own statistics move.
        teachers: in eval mode.
        images: (B, C, H, W), B at least 2.
        weights: of the terms.

    Returns:
        The gradient (B, C, H, W), the mean distance of the heads and the mean prior.

    Raises:
        TrainingError: a teacher has no batch norm and ``weights.statistics`` is not 0.
    """
    inputs = images.detach().requires_grad_()
    logits = student.forward_heads(inputs)[0]  # (n, B, K)
    heads = logits.detach().requires_grad_()
    gradient, to_heads = torch.zeros_like(inputs), torch.zeros_like(heads)
    distance, prior = heads.new_zeros(()), heads.new_zeros(())
    for index, teacher in enumerate(teachers):
        targets, familiar = _look(teacher, inputs, weights)  # (B, K), ()
        apart = head_loss(heads[index : index + 1], targets.unsqueeze(0))
        loss = (weights.statistics * familiar - weights.adversarial * apart) / len(teachers)
        parts = torch.autograd.grad(loss, (inputs, heads))
        gradient, to_heads = gradient + parts[0], to_heads + parts[1]
        distance = distance + apart.detach() / len(teachers)
        prior = prior + familiar.detach() / len(teachers)
    (through_student,) = torch.autograd.grad(logits, inputs, to_heads)
    return gradient + through_student, distance, prior


def _look(teacher: nn.Module, inputs: Tensor, weights: DataFreeWeights) -> tuple[Tensor, Tensor]:
    """A teacher's logits, and how far the statistics of the batch are from its own."""
    if not weights.statistics:
        return teacher(inputs), inputs.new_zeros(())
    with BatchNormStatistics(teacher) as statistics:
        logits: Tensor = teacher(inputs)
        return logits, statistics.loss(first_weight=weights.first_norm)
