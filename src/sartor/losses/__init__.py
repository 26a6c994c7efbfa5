"""Losses: student, teacher and labels in, a scalar out."""

from sartor.losses.distillation import distillation_loss, kd_loss
from sartor.losses.distiller import DistillationLoss, Outputs
from sartor.losses.logit_kd import LogitKD, MatchOutputs
from sartor.losses.logit_variants import bkd_loss, dist_loss, dkd_loss
from sartor.losses.named import DISTILLERS, make_distiller
from sartor.losses.taps import FeatureTaps, feature_paths
from sartor.losses.vanilla_kd import VanillaKD, bce_loss

__all__ = [
    "DISTILLERS",
    "DistillationLoss",
    "FeatureTaps",
    "LogitKD",
    "MatchOutputs",
    "Outputs",
    "VanillaKD",
    "bce_loss",
    "bkd_loss",
    "dist_loss",
    "distillation_loss",
    "dkd_loss",
    "feature_paths",
    "kd_loss",
    "make_distiller",
]
