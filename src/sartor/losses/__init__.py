"""Losses: student, teacher and labels in, a scalar out."""

from sartor.losses.distillation import distillation_loss, kd_loss

__all__ = ["distillation_loss", "kd_loss"]
