"""Losses: student, teacher and labels in, a scalar out."""

from sartor.losses.distillation import distillation_loss, kd_loss
from sartor.losses.distiller import DistillationLoss, Outputs

__all__ = ["DistillationLoss", "Outputs", "distillation_loss", "kd_loss"]
