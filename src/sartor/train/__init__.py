"""Training: the one loop, its schedule and its checkpoints."""

from sartor.train.checkpoint import load_checkpoint, load_tensors, save_tensors
from sartor.train.loop import History, TrainSettings, train

__all__ = ["History", "TrainSettings", "load_checkpoint", "load_tensors", "save_tensors", "train"]
