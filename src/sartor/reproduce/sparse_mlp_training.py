"""Sparse-MLP's evidence, first half: the Mixer, the sparse nets and their controls are trained
here,
by the one loop on the digits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Task
from sartor.data import digits_task
from sartor.measure import count_flops, count_params
from sartor.nn.sources import seeded
from sartor.nn.sparse_mlp.backbone import sparse_mlp
from sartor.nn.sparse_mlp.mixer import aux_loss, routing_report
from sartor.train import TrainSettings, train

__all__ = [
    "BOTH",
    "FULL",
    "MIXER",
    "NETS",
    "ONE",
    "QUICK",
    "SPARSE",
    "UNBALANCED",
    "Net",
    "Schedule",
    "Trained",
    "entropy",
    "train_all",
]

#: chosen among 1e-3, 3e-3 and 6e-3 on the selection split of seed 0; the Mixer prefers it too
LR = 6e-3
BALANCE = 0.01
#: 16 tokens of 64 channels; the last 2 of 4 blocks are sparse
SIZES: Mapping[str, Any] = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 64,
    "depth": 4,
    "mlp_ratio": (1.0, 4.0),
    "num_classes": 10,
}

MIXER = "Mixer"
ONE = "control: sparse blocks with one expert each"
SPARSE = "8 token experts"
BOTH = "8 token and 4 channel experts"
UNBALANCED = "8 token experts, no balance loss"


@dataclass(frozen=True, kw_only=True)
class Net:
    """What is special of one net, and the factor of its balance loss."""

    kwargs: Mapping[str, int]
    balance: float = 0.0


NETS: Mapping[str, Net] = {
    MIXER: Net(kwargs={"num_sparse": 0}),
    ONE: Net(kwargs={"num_sparse": 2, "token_experts": 1}),
    SPARSE: Net(kwargs={"num_sparse": 2, "token_experts": 8}, balance=BALANCE),
    BOTH: Net(kwargs={"num_sparse": 2, "token_experts": 8, "channel_experts": 4}, balance=BALANCE),
    UNBALANCED: Net(kwargs={"num_sparse": 2, "token_experts": 8}),
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Epochs of every net, and the noise of the digits."""

    epochs: int
    noise: float


FULL = Schedule(epochs=16, noise=0.6)
#: a smoke test whose numbers mean little
QUICK = Schedule(epochs=3, noise=0.2)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One net after its training.

    Attributes:
        params: of the net.
        flops: of one image.
        selection: accuracy on selection images.
        accuracy: on validation images.
        shares: of the validation units that each expert got, by layer; empty without routing.
        seconds: of the CPU in training.
    """

    params: int
    flops: int
    selection: float
    accuracy: float
    seconds: float
    shares: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def least(self) -> float:
        """Smallest share of an expert, in units of an even share."""
        return min(len(shares) * min(shares) for shares in self.shares.values())

    @property
    def entropy(self) -> float:
        """Of the shares, lowest layer; 1 if all experts get the same."""
        return min(entropy(shares) for shares in self.shares.values())


def entropy(shares: Sequence[float]) -> float:
    """Entropy of shares that sum to 1, over that of even ones.

    Example:
        >>> entropy([0.5, 0.5]), entropy([1.0, 0.0])
        (1.0, 0.0)
    """
    return -math.fsum(p * math.log(p) for p in shares if p) / math.log(len(shares)) + 0.0


def train_all(seed: int, schedule: Schedule) -> dict[str, Trained]:
    """Train every net of the comparison on the digits of one seed."""
    task = digits_task(noise=schedule.noise, seed=seed)
    selection, validation = _joined(task.selection), _joined(task.validation)
    return {
        name: _trained(net, task, selection, validation, seed, schedule.epochs)
        for name, net in NETS.items()
    }


def _trained(
    net: Net, task: Task, selection: Any, validation: Any, seed: int, epochs: int
) -> Trained:
    with seeded(seed):
        model = sparse_mlp(**SIZES, **net.kwargs)

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        value = F.cross_entropy(model(inputs), targets)
        return value + aux_loss(model, net.balance) if net.balance else value

    began = time.process_time()
    train(model, task.train, loss, TrainSettings(epochs=epochs, lr=LR, warmup_epochs=1, seed=seed))
    seconds = time.process_time() - began
    with torch.inference_mode():
        chosen, reported = (task.evaluate(model, batches) for batches in (selection, validation))
    return Trained(
        params=count_params(model),
        flops=count_flops(model, task.example),
        selection=float(chosen),
        accuracy=float(reported),
        seconds=seconds,
        shares=_shares(model, validation),
    )


@torch.inference_mode()
def _shares(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, list[float]]:
    model(torch.cat([inputs for inputs, _ in batches]))
    return routing_report(model)


def _joined(batches: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The same inputs in batches of 256, which are faster to evaluate."""
    inputs, targets = (torch.cat(parts).split(256) for parts in zip(*batches, strict=True))
    return list(zip(inputs, targets, strict=True))
