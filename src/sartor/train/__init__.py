"""Training: the one loop, its schedule and its checkpoints, and distillation on it."""

from sartor.train.checkpoint import load_checkpoint, load_tensors, save_tensors
from sartor.train.distill import DistillReport, distill
from sartor.train.logit_rows import LogitFormat
from sartor.train.loop import History, TrainSettings, train
from sartor.train.teacher_cache import TeacherCache, cache_teacher

__all__ = [
    "DistillReport",
    "History",
    "LogitFormat",
    "TeacherCache",
    "TrainSettings",
    "cache_teacher",
    "distill",
    "load_checkpoint",
    "load_tensors",
    "save_tensors",
    "train",
]
