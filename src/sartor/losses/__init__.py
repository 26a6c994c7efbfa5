"""Losses: student, teacher and labels in, a scalar out."""

from sartor.losses.distillation import distillation_loss, kd_loss
from sartor.losses.distiller import DistillationLoss, Outputs
from sartor.losses.taps import FeatureTaps, feature_paths

__all__ = [
    "DistillationLoss",
    "FeatureTaps",
    "Outputs",
    "distillation_loss",
    "feature_paths",
    "kd_loss",
]
