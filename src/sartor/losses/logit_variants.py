"""Refinements of distillation from logits, as plain functions: BKD, DKD and DIST.

Source: BKD is a baseline of Hao et al., 2023, arXiv 2305.15781; DKD is Zhao et al., Decoupled
    Knowledge Distillation, CVPR 2022, arXiv 2203.08679; DIST is Huang et al., Knowledge
    Distillation from A Stronger Teacher, NeurIPS 2022, arXiv 2205.10536. Deviation: DKD works with
    logarithms throughout, where the released code takes the logarithm of a probability.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["bkd_loss", "dist_loss", "dkd_loss"]

#: keeps the correlation of constant rows finite, as in the released code
_EPSILON = 1e-8


def bkd_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Binary cross entropy of each class against the teacher's probability, mean over B * K.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K); no gradient flows into it.

    Raises:
        TrainingError: shapes differ.
    """
    _check(student_logits, teacher_logits, 1.0)
    wanted = teacher_logits.detach().softmax(dim=1)
    return F.binary_cross_entropy_with_logits(student_logits, wanted)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 2.0,
    temperature: float = 1.0,
) -> Tensor:
    """Alpha * T^2 * KL of (target, rest) + beta * T^2 * KL among the other classes.

    With alpha 1 and beta, for each input, one minus the teacher's probability of the target, it is
    :func:`~sartor.losses.kd_loss`.

    Args:
        student_logits: (B, K), K at least 2.
        teacher_logits: (B, K); no gradient flows into it.
        targets: labels (B,); of mixed targets (B, K) the largest entry counts.
        alpha: weight of the target's share, at least 0.
        beta: weight of the other classes, at least 0.
        temperature: T, above 0.

    Raises:
        TrainingError: shapes differ or a setting is out of range.
    """
    _check(student_logits, teacher_logits, temperature, (alpha, beta))
    labels = targets.argmax(dim=1) if targets.ndim == 2 else targets  # (B,)
    of_student = _decoupled(student_logits / temperature, labels)
    of_teacher = _decoupled(teacher_logits.detach() / temperature, labels)
    share, others = (
        F.kl_div(mine, wanted, reduction="batchmean", log_target=True)
        for mine, wanted in zip(of_student, of_teacher, strict=True)
    )
    return temperature**2 * (alpha * share + beta * others)


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """T^2 * (beta * (1 - correlation over classes) + gamma * (1 - correlation over the batch)).

    Correlations are Pearson's, of the probabilities: one for each input, mean over the batch, and
    one for each class, mean over the classes.

    Args:
        student_logits: (B, K), B at least 2.
        teacher_logits: (B, K); no gradient flows into it.
        beta: weight of the relation between classes, at least 0.
        gamma: weight of the relation inside classes, at least 0.
        temperature: T, above 0.

    Raises:
        TrainingError: shapes differ, the batch has one input, or a setting is out of range.
    """
    _check(student_logits, teacher_logits, temperature, (beta, gamma))
    if len(student_logits) < 2:
        raise TrainingError(
            "DIST correlates over the batch and needs at least 2 inputs in it, got "
            f"{len(student_logits)}; use drop_last=True."
        )
    mine = (student_logits / temperature).softmax(dim=1)  # (B, K)
    wanted = (teacher_logits.detach() / temperature).softmax(dim=1)  # (B, K)
    between = 1 - _correlation(mine, wanted).mean()
    inside = 1 - _correlation(mine.T, wanted.T).mean()
    return temperature**2 * (beta * between + gamma * inside)


def _decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of (target, rest), (B, 2), and of the other classes among themselves, (B, K-1)."""
    whole = logits.logsumexp(dim=1, keepdim=True)  # (B, 1)
    at = F.one_hot(labels, logits.shape[1]).bool()  # (B, K)
    target = logits[at].unsqueeze(1)  # (B, 1)
    others = logits[~at].view(len(logits), -1)  # (B, K - 1)
    rest = others.logsumexp(dim=1, keepdim=True)  # (B, 1)
    return torch.cat([target, rest], dim=1) - whole, others.log_softmax(dim=1)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's, row by row: (R, C), (R, C) -> (R,); about 0 where a row is constant."""
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (first, second))
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + _EPSILON)


def _check(
    student: Tensor, teacher: Tensor, temperature: float, weights: tuple[float, ...] = ()
) -> None:
    if student.shape != teacher.shape:
        raise TrainingError(
            f"The student's logits {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)} differ in shape; distil between models of the same classes."
        )
    if temperature <= 0 or any(weight < 0 for weight in weights):
        raise TrainingError(
            "Distillation takes a temperature above 0 and weights of at least 0, got "
            f"{temperature} and {weights}."
        )
