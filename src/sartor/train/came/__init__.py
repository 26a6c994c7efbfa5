"""CAME: an optimiser like Adam with about half of its state."""

from sartor.train.came.optimizer import CAME
from sartor.train.came.state import optimizer_state_bytes

__all__ = [
    "CAME",
    "optimizer_state_bytes",
]
