"""Losses: student, teacher and labels in, a scalar out."""

from sartor.losses.batch_norm_statistics import BatchNormStatistics, batch_norm_distance
from sartor.losses.data_free import ensemble_loss, feature_loss, head_loss
from sartor.losses.distillation import distillation_loss, kd_loss
from sartor.losses.distiller import DistillationLoss, Outputs
from sartor.losses.exit_branch import exit_branch
from sartor.losses.hint import HintKD
from sartor.losses.logit_kd import LogitKD, MatchOutputs
from sartor.losses.logit_variants import bkd_loss, dist_loss, dkd_loss
from sartor.losses.manifold_kd import (
    ManifoldKD,
    ManifoldTerms,
    full_manifold_loss,
    manifold_loss,
    pair_layers,
)
from sartor.losses.named import DISTILLERS, default_distiller, make_distiller
from sartor.losses.ofa_kd import OfaKD, ofa_loss
from sartor.losses.patch_tokens import merge_patches, patch_tokens
from sartor.losses.soft_labels import SoftLabelKD, soft_label_loss
from sartor.losses.taps import FeatureTaps, feature_paths
from sartor.losses.vanilla_kd import VanillaKD, bce_loss

__all__ = [
    "DISTILLERS",
    "BatchNormStatistics",
    "DistillationLoss",
    "FeatureTaps",
    "HintKD",
    "LogitKD",
    "ManifoldKD",
    "ManifoldTerms",
    "MatchOutputs",
    "OfaKD",
    "Outputs",
    "SoftLabelKD",
    "VanillaKD",
    "batch_norm_distance",
    "bce_loss",
    "bkd_loss",
    "default_distiller",
    "dist_loss",
    "distillation_loss",
    "dkd_loss",
    "ensemble_loss",
    "exit_branch",
    "feature_loss",
    "feature_paths",
    "full_manifold_loss",
    "head_loss",
    "kd_loss",
    "make_distiller",
    "manifold_loss",
    "merge_patches",
    "ofa_loss",
    "pair_layers",
    "patch_tokens",
    "soft_label_loss",
]
