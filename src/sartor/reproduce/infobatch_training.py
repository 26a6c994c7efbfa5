"""InfoBatch's evidence, first half: digits with and without wrong labels, one network, every way of
choosing the samples of an epoch; no choice reads the reported split.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from sartor.core.packages import require
from sartor.data.split import hold_out
from sartor.nn.sources import seeded
from sartor.train import InfoBatchSettings, PruningLoss, TrainSettings, prune_data, train

__all__ = [
    "ARMS",
    "FLAT",
    "FULL_RUN",
    "HARDEST",
    "INFOBATCH",
    "PLAIN",
    "QUICK_RUN",
    "SHORTER",
    "UNIFORM",
    "Digits",
    "Run",
    "Trained",
    "train_arms",
]

PLAIN = "all samples"
INFOBATCH = "InfoBatch"
UNIFORM = "random samples, as many"
FLAT = "InfoBatch, all weights 1"
HARDEST = "highest losses, as many"
SHORTER = "all samples, fewer epochs"
ARMS = (PLAIN, INFOBATCH, UNIFORM, FLAT, HARDEST, SHORTER)
SELECTION, TEST, BATCH = 300, 600, 32
#: with momentum 0.9: the best of 0.02, 0.05, 0.1 and 0.2 for all samples on the selection split of
#: seeds 0 to 2
RATE, WEIGHT_DECAY = 0.1, 5e-4

#: scores (N,), how many, generator -> samples (K,)
_Choose = Callable[[Tensor, int, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Run:
    """How long each network trains, and in which regimes: name -> share of wrong labels."""

    epochs: int
    regimes: Mapping[str, float]


FULL_RUN = Run(epochs=30, regimes={"clean": 0.0, "20 % wrong labels": 0.2})
QUICK_RUN = Run(epochs=6, regimes={"clean": 0.0})


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One network after its training.

    Attributes:
        accuracy: on the test split.
        selection: on the selection split.
        share: samples trained on, over those of the plain training.
        seconds: of training.
    """

    accuracy: float
    selection: float
    share: float
    seconds: float


@dataclass(frozen=True)
class Digits:
    """scikit-learn's digits, pixels in 0..1, split by seed: 897 train, 300 select, 600 are
    reported. Wrong labels are in the training split alone, uniform over the other classes.
    """

    train: tuple[Tensor, Tensor]
    selection: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, seed: int, wrong: float = 0.0) -> Digits:
        """Split, and spoil the share ``wrong`` of the training labels."""
        bunch = require("sklearn.datasets").load_digits()
        images = torch.tensor(bunch.data, dtype=torch.float32) / 16  # (N, 64)
        labels = torch.tensor(bunch.target, dtype=torch.int64)  # (N,)
        rest, test = hold_out(labels, TEST, seed=seed)
        kept, held = hold_out(labels[rest], SELECTION, seed=seed)
        parts = [(images[part], labels[part]) for part in (rest[kept], rest[held], test)]
        inputs, targets = parts[0]
        generator = torch.Generator().manual_seed(seed)
        spoiled = torch.randperm(len(targets), generator=generator)[: round(wrong * len(targets))]
        shift = torch.randint(1, 10, (len(spoiled),), generator=generator)
        targets[spoiled] = (targets[spoiled] + shift) % 10
        return cls((inputs, targets), *parts[1:])


def train_arms(seed: int, wrong: float, run: Run, arms: Sequence[str] = ARMS) -> dict[str, Trained]:
    """Train one network each way, from the same weights; InfoBatch says how many samples the
    others get.
    """
    digits = Digits.of(seed, wrong)
    count = len(digits.train[1])
    made, counts = _infobatch(digits, seed, run.epochs)
    trained = {INFOBATCH: made}
    full = max(2, round(sum(counts) / count))
    ways: dict[str, Callable[[], Trained]] = {
        PLAIN: lambda: _chosen(digits, seed, [count] * run.epochs, run.epochs, _random),
        UNIFORM: lambda: _chosen(digits, seed, counts, run.epochs, _random),
        FLAT: lambda: _infobatch(digits, seed, run.epochs, weighted=False)[0],
        HARDEST: lambda: _chosen(digits, seed, counts, run.epochs, _hardest),
        SHORTER: lambda: _chosen(digits, seed, [count] * full, run.epochs, _random),
    }
    trained |= {name: way() for name, way in ways.items() if name in arms}
    return {name: trained[name] for name in arms if name in trained}


def _infobatch(
    digits: Digits, seed: int, epochs: int, weighted: bool = True
) -> tuple[Trained, list[int]]:
    data = TensorDataset(*digits.train)
    loader = prune_data(
        DataLoader(data, batch_size=BATCH, shuffle=True),
        epochs=epochs,
        settings=InfoBatchSettings(seed=seed),
    )
    sampler: Any = loader.sampler

    def unweighted(model: nn.Module, inputs: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        losses = _losses(model, inputs, targets)
        sampler.update(indices, losses)
        return losses.mean()

    loss = PruningLoss(sampler, _losses) if weighted else unweighted
    return _train(digits, loader, loss, seed, epochs, epochs * len(data))


def _chosen(
    digits: Digits, seed: int, counts: Sequence[int], epochs: int, choose: _Choose
) -> Trained:
    inputs, targets = digits.train
    sampler = _Counted(len(targets), counts, choose, seed)
    data = TensorDataset(inputs, targets, torch.arange(len(targets)))
    loader: DataLoader[Any] = DataLoader(data, batch_size=BATCH, sampler=sampler)

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        losses = _losses(model, inputs, targets)
        sampler.scores[indices] = losses.detach()
        return losses.mean()

    return _train(digits, loader, loss, seed, len(counts), epochs * len(targets))[0]


def _train(
    digits: Digits,
    loader: DataLoader[Any],
    loss: Callable[..., Tensor],
    seed: int,
    epochs: int,
    plain: int,
) -> tuple[Trained, list[int]]:
    with seeded(seed):
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    settings = TrainSettings(epochs=epochs, lr=RATE, weight_decay=WEIGHT_DECAY, seed=seed)
    started = time.process_time()
    history = train(model, loader, loss, settings, optimizer=_momentum)
    made = Trained(
        accuracy=_accuracy(model, digits.test),
        selection=_accuracy(model, digits.selection),
        share=sum(history.samples) / plain,
        seconds=time.process_time() - started,
    )
    return made, history.samples


class _Counted(Sampler[int]):
    """A given number of samples an epoch, by a rule that reads the last loss of each."""

    def __init__(self, count: int, counts: Sequence[int], choose: _Choose, seed: int) -> None:
        self.scores = torch.full((count,), 1e6)  # unseen samples come first
        self.counts, self.choose, self.seed, self.epoch = counts, choose, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.counts[self.epoch]

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from self.choose(self.scores, len(self), generator).tolist()


def _random(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(scores), generator=generator)[:count]


def _hardest(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return scores.topk(count).indices[torch.randperm(count, generator=generator)]


def _momentum(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=0.9)


def _losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), targets, reduction="none")


@torch.inference_mode()
def _accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    inputs, labels = data
    return float((model(inputs).argmax(dim=1) == labels).float().mean())
