"""Distillers by name: what ``fit``'s ``recovery`` and :func:`sartor.distill` take as a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import TrainingError, nearest
from sartor.losses.distiller import DistillationLoss
from sartor.losses.logit_kd import LogitKD
from sartor.losses.vanilla_kd import VanillaKD

__all__ = ["DISTILLERS", "make_distiller"]

LabelLoss = Callable[[Tensor, Tensor], Tensor]
#: (student, teacher, the task's loss) -> the loss of the distillation
Factory = Callable[[nn.Module, nn.Module, LabelLoss], DistillationLoss]


def _hard(_student: nn.Module, _teacher: nn.Module, label_loss: LabelLoss) -> DistillationLoss:
    return LogitKD("hard", alpha=0.5, label_loss=label_loss)


def _soft(_student: nn.Module, _teacher: nn.Module, label_loss: LabelLoss) -> DistillationLoss:
    return LogitKD("soft", alpha=0.9, temperature=4.0, label_loss=label_loss)


def _vanilla(_student: nn.Module, _teacher: nn.Module, label_loss: LabelLoss) -> DistillationLoss:
    return VanillaKD(label_loss=label_loss)


#: word -> what makes the loss; ``soft`` is the default of ``fit``
DISTILLERS: Mapping[str, Factory] = {"soft": _soft, "hard": _hard, "vanilla": _vanilla}


def make_distiller(
    name: str,
    student: nn.Module,
    teacher: nn.Module,
    *,
    label_loss: LabelLoss = F.cross_entropy,
) -> DistillationLoss:
    """Make the loss of that name for a pair of models.

    Args:
        name: ``soft``: mostly the teacher's outputs at temperature 4, for short trainings;
            ``hard``: its classes as second labels; ``vanilla``: labels and outputs at temperature
            1, for long ones.
        student: what will be trained.
        teacher: what it learns from.
        label_loss: (logits, targets) -> scalar.

    Raises:
        TrainingError: there is no such distiller; the nearest are named.
    """
    if name not in DISTILLERS:
        raise TrainingError(f"There is no distiller {name!r}; {nearest(name, DISTILLERS)}")
    return DISTILLERS[name](student, teacher, label_loss)
