"""What the evidence of small backbones shares: digits as larger images, and a training of each net.

CIFAR-10, on which the cards ask for these comparisons, is not on an offline machine; the digits
stand in, enlarged to 32 x 32 pixels. No choice reads their validation split.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from sartor.core import Task
from sartor.core.modes import eval_mode
from sartor.data import digits_task
from sartor.measure import count_flops, count_params, latency
from sartor.nn.sources import seeded
from sartor.train import TrainSettings, train

__all__ = ["BATCH", "SIDE", "Trained", "enlarged_digits", "step_times", "trained"]

SIDE = 32
BATCH = 32
LR = 2e-3
#: of the digits; with more of it, so few epochs teach these nets little
NOISE = 0.3


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One trained net: its cost, its accuracy, how long its training took."""

    name: str
    macs: float
    params: int
    accuracy: float
    seconds: float

    def row(self, seed: int) -> dict[str, str | int | float]:
        """As a line of a table."""
        return {
            "net": self.name,
            "seed": seed,
            "MMACs": self.macs / 1e6,
            "parameters": self.params,
            "accuracy": self.accuracy,
            "seconds": self.seconds,
        }


def enlarged_digits(seed: int) -> Task:
    """Digits (1, 32, 32) with noise."""
    return digits_task(image_size=(1, SIDE, SIDE), batch_size=BATCH, seed=seed, noise=NOISE)


def trained(
    name: str, make: Callable[[], nn.Module], task: Task, *, seed: int, epochs: int
) -> tuple[Trained, nn.Module]:
    """Make a net with the weights of a seed, train it on labels, score it on the validation split.

    Args:
        name: for tables.
        make: the net.
        task: digits.
        seed: of weights, order and stochastic parts.
        epochs: over the training images.
    """
    with seeded(seed):
        model = make()
    settings = TrainSettings(epochs=epochs, lr=LR, warmup_epochs=1, seed=seed)
    began = time.process_time()
    train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
    seconds = time.process_time() - began
    result = Trained(
        name=name,
        macs=count_flops(model, task.example) / 2,
        params=count_params(model),
        accuracy=task.evaluate(model, task.validation),
        seconds=seconds,
    )
    return result, model


def step_times(models: Mapping[str, nn.Module], task: Task, *, rounds: int) -> dict[str, float]:
    """Median milliseconds of a training step without the optimiser, timed in turn.

    Gradients are thrown away and modes and batch statistics are left as they were found.
    """
    images = task.batch(BATCH)

    def step(model: nn.Module) -> Callable[[], None]:
        def run() -> None:
            model(images).square().mean().backward()
            model.zero_grad(set_to_none=True)

        return run

    with eval_mode(*models.values()):
        calls = {name: step(model) for name, model in models.items()}
        timed = latency(calls, rounds=rounds, min_seconds=0.0, warmup=1)
    return {name: one.median_ms for name, one in timed.items()}
