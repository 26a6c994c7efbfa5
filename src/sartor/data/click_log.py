"""A generated click log: a few categorical fields whose ids are as unevenly frequent as in
advertising, and clicks drawn from a known factorisation machine.

The best possible ranking is known, so that a model's distance from it can be stated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sartor.core.errors import DataError
from sartor.core.task import Task
from sartor.data.auc import roc_auc
from sartor.data.memory import Shuffle

__all__ = ["CARDINALITIES", "ClickLog", "click_task", "draw_click_log", "zipf_ids"]

#: ids in each field
CARDINALITIES = (3000, 1500, 800, 400, 200, 100, 50, 20)
#: of the ground truth: length of an id's vector, deviation of weights and vectors, logit at rest
DIM, LINEAR_STD, VECTOR_STD, BIAS = 4, 0.25, 0.30, -1.0


@dataclass(frozen=True)
class ClickLog:
    """Views of an advertisement.

    Attributes:
        ids: one in each field, (N, F), int64.
        clicks: 0 or 1, (N,), float32.
        probabilities: that each was drawn with, (N,), float32; no model may see them.
    """

    ids: Tensor
    clicks: Tensor
    probabilities: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> ClickLog:
        return ClickLog(self.ids[part], self.clicks[part], self.probabilities[part])

    @property
    def best_auc(self) -> float:
        """AUC of the probabilities themselves, which no model can beat but by chance."""
        return roc_auc(self.probabilities, self.clicks)


def zipf_ids(count: int, size: int, *, exponent: float, generator: torch.Generator) -> Tensor:
    """Draw ids whose probability falls as a power of their number.

    Args:
        count: number of draws N, at least 1.
        size: number of ids, at least 1.
        exponent: id i has a probability proportional to (i + 1) ** -exponent; 0 is uniform.
        generator: on the CPU.

    Returns:
        (N,), int64, in 0..size-1.

    Raises:
        DataError: a number is out of range.

    Example:
        >>> zipf_ids(5, 10, exponent=1.1, generator=torch.Generator().manual_seed(0))
        tensor([8, 3, 1, 7, 2])
    """
    if count < 1 or size < 1 or exponent < 0:
        raise DataError(
            "Ids take a count and a size of at least 1 and an exponent of at least 0, got "
            f"{count}, {size} and {exponent:g}."
        )
    weights = torch.arange(1, size + 1, dtype=torch.float64) ** -exponent  # (V,)
    edges = weights.cumsum(0) / weights.sum()  # (V,)
    drawn = torch.rand(count, dtype=torch.float64, generator=generator)
    return torch.searchsorted(edges, drawn, right=True).clamp_max(size - 1)


def draw_click_log(
    count: int,
    *,
    cardinalities: Sequence[int] = CARDINALITIES,
    exponent: float = 1.1,
    seed: int = 0,
) -> ClickLog:
    """Draw views and clicks of one ground truth: a weight for each id and an inner product for each
    pair of fields. The global random state is neither read nor changed.

    Args:
        count: number of views N, at least 1.
        cardinalities: ids in each field, F of them.
        exponent: of the frequencies, see :func:`zipf_ids`.
        seed: of the ground truth and of the draws.

    Raises:
        DataError: there is no field, or a number is out of range.

    Example:
        >>> log = draw_click_log(60_000)
        >>> log.ids.shape, round(log.best_auc, 2)
        (torch.Size([60000, 8]), 0.79)
    """
    if not cardinalities:
        raise DataError("A click log needs at least one field; give its number of ids.")
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        zipf_ids(count, size, exponent=exponent, generator=generator) for size in cardinalities
    ]
    logits = torch.full((count,), BIAS)  # (N,)
    total, squares = torch.zeros(count, DIM), torch.zeros(count, DIM)  # (N, D)
    for ids, size in zip(drawn, cardinalities, strict=True):
        logits += (LINEAR_STD * torch.randn(size, generator=generator))[ids]
        vectors = (VECTOR_STD * torch.randn(size, DIM, generator=generator))[ids]  # (N, D)
        total, squares = total + vectors, squares + vectors.square()
    probabilities = (logits + 0.5 * (total.square() - squares).sum(dim=1)).sigmoid()  # (N,)
    clicks = torch.bernoulli(probabilities, generator=generator)
    return ClickLog(torch.stack(drawn, dim=1), clicks, probabilities)


def click_task(
    *,
    train: int = 65_536,
    selection: int = 8_192,
    validation: int = 40_000,
    batch_size: int = 64,
    seed: int = 0,
    workers: int = 0,
) -> Task:
    """Make the task of ranking views by their chance of a click; no network.

    Inputs are ids (B, 8) of fields with :data:`CARDINALITIES` ids, targets 0.0 or 1.0 (B,), and
    outputs logits (B,). The quality is the AUC.

    Args:
        train: number of views to train on, at least 1.
        selection: to choose on, enough for both classes.
        validation: to report on, likewise.
        batch_size: views a batch, at least 1; the last incomplete one of the training is left out.
        seed: of everything that is drawn.
        workers: loading processes.

    Raises:
        DataError: a number is too small.

    Example:
        >>> task = click_task(train=64, selection=64, validation=64)
        >>> task.input_shape, task.metric
        ((8,), 'AUC')
    """
    if min(train, selection, validation, batch_size) < 1:
        raise DataError(
            "A click task takes at least 1 view in each split and batch, got "
            f"{train}, {selection}, {validation} and {batch_size}."
        )
    log = draw_click_log(train + selection + validation, seed=seed)
    kept, held = _Views(log[:train]), [log[train : train + selection], log[train + selection :]]
    whole = [DataLoader(_Views(part), batch_size=4096, collate_fn=_as_is) for part in held]
    return Task(
        name="click log",
        train=DataLoader(
            kept,
            batch_size=batch_size,
            sampler=Shuffle(train),
            drop_last=train >= batch_size,
            num_workers=workers,
            collate_fn=_as_is,
        ),
        selection=whole[0],
        validation=whole[1],
        example=log.ids[:1],
        loss=F.binary_cross_entropy_with_logits,
        evaluate=_auc,
        metric="AUC",
        notes=(f"The best possible AUC on the validation views is {held[1].best_auc:.3f}.",),
    )


class _Views(Dataset[Any]):
    """Views in memory, given out as whole batches."""

    def __init__(self, log: ClickLog) -> None:
        self.ids, self.clicks = log.ids, log.clicks

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.as_tensor(indices)
        return self.ids[chosen], self.clicks[chosen]


def _as_is(batch: Any) -> Any:
    return batch


@torch.no_grad()
def _auc(model: Any, batches: Iterable[Any]) -> float:
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = first.device if first is not None else torch.device("cpu")
    pairs = [(model(ids.to(device)).cpu(), clicks) for ids, clicks in batches]
    if not pairs:
        raise DataError("The data to evaluate on is empty; give at least one batch.")
    return roc_auc(torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs]))
