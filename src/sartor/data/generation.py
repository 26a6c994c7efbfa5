"""A generative task: make handwritten digits from noise, judged by a distance between samples.

Source: the digits are those of :mod:`sartor.data.digits`; the distance is that of Szekely, Rizzo,
    Energy statistics, Journal of Statistical Planning and Inference 2013.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError
from sartor.core.packages import require
from sartor.core.task import Task
from sartor.data.digits import SELECTION, VALIDATION
from sartor.data.split import hold_out

__all__ = ["DigitVectors", "digit_vectors", "energy_distance", "generation_task"]


@dataclass(frozen=True, kw_only=True)
class DigitVectors:
    """Digits as vectors (N, 64) in [-1, 1]: 1000 train, 200 select, 597 validate."""

    train: Tensor
    selection: Tensor
    validation: Tensor


def digit_vectors(*, seed: int = 0) -> DigitVectors:
    """Split the 1797 digits by ``seed`` alone, as :func:`~sartor.data.digits.digits_task` does."""
    bunch = require("sklearn.datasets").load_digits()
    vectors = torch.tensor(bunch.data, dtype=torch.float32) / 8 - 1  # (N, 64)
    labels = torch.tensor(bunch.target, dtype=torch.int64)  # (N,)
    rest, validation = hold_out(labels, VALIDATION, seed=seed)
    kept, held = hold_out(labels[rest], SELECTION, seed=seed)
    return DigitVectors(
        train=vectors[rest[kept]], selection=vectors[rest[held]], validation=vectors[validation]
    )


def energy_distance(first: Tensor, second: Tensor) -> float:
    """Distance of two samples of vectors: 2 E|X - Y| - E|X - X'| - E|Y - Y'|.

    All pairs count, each vector with itself too, so the distance is at least 0, and 0 for equal
    samples.

    Args:
        first: (N, D).
        second: (M, D).

    Raises:
        DataError: a sample is empty, or the lengths of the vectors differ.

    Example:
        >>> energy_distance(torch.zeros(3, 1), torch.ones(2, 1))
        2.0
    """
    shapes = tuple(first.shape), tuple(second.shape)
    if first.ndim != 2 or second.ndim != 2 or shapes[0][1] != shapes[1][1] or 0 in sum(shapes, ()):
        raise DataError(
            f"The energy distance takes two samples (N, D) and (M, D) of at least one vector, got "
            f"{shapes[0]} and {shapes[1]}."
        )
    x, y = first.double(), second.double()
    across, inside, other = (torch.cdist(a, b).mean() for a, b in ((x, y), (x, x), (y, y)))
    return float(2 * across - inside - other)


def generation_task(*, samples: int = 597, batch_size: int = 200, seed: int = 0) -> Task:
    """Make the task of samplers: noise (B, 64) in, digits (B, 64) out.

    Inputs are standard normal noise, targets real digits; they belong together only as samples of
    two distributions. Quality is 1 / (1 + energy distance) between all outputs and all targets: 1
    for samples that cannot be told from the digits, towards 0 for others.

    Args:
        samples: made for the validation split, at least 1; a third of them for the selection split.
        batch_size: inputs a batch, at least 1.
        seed: of the split and of the noise.

    Raises:
        DataError: a number is below 1.

    Example:
        >>> generation_task().metric
        'closeness'
    """
    if samples < 1 or batch_size < 1:
        raise DataError(
            f"Generation takes samples and batch_size of at least 1, got {samples} and "
            f"{batch_size}."
        )
    digits = digit_vectors(seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def pairs(real: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
        noise = torch.randn(count, real.shape[1], generator=generator)
        wanted = real.repeat(-(-count // len(real)), 1)[:count]  # (count, 64)
        return list(zip(noise.split(batch_size), wanted.split(batch_size), strict=True))

    return Task(
        name="digits-generation",
        train=pairs(digits.train, len(digits.train)),
        selection=pairs(digits.selection, -(-samples // 3)),
        validation=pairs(digits.validation, samples),
        example=torch.zeros(1, digits.train.shape[1]),
        loss=nn.functional.mse_loss,
        evaluate=_quality,
        metric="closeness",
        notes=("Closeness is 1 / (1 + energy distance) between generated and real digits.",),
    )


@torch.no_grad()
def _quality(model: Any, batches: Iterable[Any]) -> float:
    pairs = list(batches)
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = first.device if first is not None else torch.device("cpu")
    made = torch.cat([model(noise.to(device)).cpu() for noise, _ in pairs])
    return 1 / (1 + energy_distance(made, torch.cat([real for _, real in pairs])))
