"""Distillers by name: what ``fit``'s ``recovery`` and :func:`sartor.distill` take as a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import TrainingError, nearest
from sartor.losses.distiller import DistillationLoss
from sartor.losses.logit_kd import LogitKD
from sartor.losses.manifold_kd import ManifoldKD, pair_layers
from sartor.losses.taps import feature_paths
from sartor.losses.vanilla_kd import VanillaKD

__all__ = ["DISTILLERS", "default_distiller", "make_distiller"]

LabelLoss = Callable[[Tensor, Tensor], Tensor]
#: (student, teacher, the task's loss) -> the loss of the distillation
Factory = Callable[[nn.Module, nn.Module, LabelLoss], DistillationLoss]


def _hard(_student: nn.Module, _teacher: nn.Module, label_loss: LabelLoss) -> DistillationLoss:
    return LogitKD("hard", alpha=0.5, label_loss=label_loss)


def _soft(_student: nn.Module, _teacher: nn.Module, label_loss: LabelLoss) -> DistillationLoss:
    return LogitKD("soft", alpha=0.9, temperature=4.0, label_loss=label_loss)


def _vanilla(_student: nn.Module, _teacher: nn.Module, label_loss: LabelLoss) -> DistillationLoss:
    return VanillaKD(label_loss=label_loss)


def _manifold(student: nn.Module, teacher: nn.Module, label_loss: LabelLoss) -> DistillationLoss:
    ours, theirs = feature_paths(student), feature_paths(teacher)
    pairs = pair_layers(len(ours), len(theirs), n=max(1, min(4, len(ours) // 2, len(theirs) // 2)))
    return ManifoldKD(
        [ours[i] for i, _ in pairs],
        [theirs[j] for _, j in pairs],
        alpha=0.9,
        temperature=4.0,
        student_prefix=getattr(student, "num_prefix_tokens", 0),
        teacher_prefix=getattr(teacher, "num_prefix_tokens", 0),
        label_loss=label_loss,
    )


#: word -> what makes the loss
DISTILLERS: Mapping[str, Factory] = {
    "soft": _soft,
    "hard": _hard,
    "vanilla": _vanilla,
    "manifold": _manifold,
}


def default_distiller(student: nn.Module, teacher: nn.Module) -> str:
    """The distiller that a pair of models gets where none is asked for.

    Models of one kind (convolutions, attention, or neither): ``soft``, which recovers pruned ViTs
    as well as ``manifold`` does, in a third of the time. Others: ``vanilla``, which costs little
    where a teacher of another kind is of no use. Measured in ``docs/distillation-pairs.md``.

    Args:
        student: what will be trained.
        teacher: what it learns from.
    """
    return "soft" if _kind(student) == _kind(teacher) else "vanilla"


def _kind(model: nn.Module) -> str:
    modules = list(model.modules())
    if any(isinstance(m, nn.MultiheadAttention) or hasattr(m, "num_heads") for m in modules):
        return "attention"
    spatial = [m for m in modules if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return "convolution" if len(spatial) > 1 else "neither"  # one is the patch embedding


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
            1, for long ones; ``manifold``: as soft, and relations among the patches of the first
            and the last blocks, for timm's models of one patch grid.
        student: what will be trained.
        teacher: what it learns from.
        label_loss: (logits, targets) -> scalar.

    Raises:
        TrainingError: there is no such distiller, the nearest are named; or it needs features that
            a model does not name.
    """
    if name not in DISTILLERS:
        raise TrainingError(f"There is no distiller {name!r}; {nearest(name, DISTILLERS)}")
    return DISTILLERS[name](student, teacher, label_loss)
