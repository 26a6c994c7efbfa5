"""Training: the one loop, its schedule and its checkpoints, and distillation on it."""

from sartor.train.cdfkd_mfs import DataFreeDistiller, DataFreeHistory, distill_data_free
from sartor.train.checkpoint import load_checkpoint, load_tensors, save_tensors
from sartor.train.compact_recipe import (
    CompactRecipe,
    CompactTraining,
    auto_ema_decay,
    prepare_compact,
)
from sartor.train.data_free_settings import DataFreeSettings, DataFreeWeights
from sartor.train.distill import DistillReport, distill
from sartor.train.head_attention import fit_head_attention_
from sartor.train.logit_rows import LogitFormat
from sartor.train.loop import History, TrainSettings, train
from sartor.train.strong_recipe import STRONG_RECIPES, StrongRecipe, strong_recipe
from sartor.train.teacher_cache import TeacherCache, cache_teacher

__all__ = [
    "STRONG_RECIPES",
    "CompactRecipe",
    "CompactTraining",
    "DataFreeDistiller",
    "DataFreeHistory",
    "DataFreeSettings",
    "DataFreeWeights",
    "DistillReport",
    "History",
    "LogitFormat",
    "StrongRecipe",
    "TeacherCache",
    "TrainSettings",
    "auto_ema_decay",
    "cache_teacher",
    "distill",
    "distill_data_free",
    "fit_head_attention_",
    "load_checkpoint",
    "load_tensors",
    "prepare_compact",
    "save_tensors",
    "strong_recipe",
    "train",
]
