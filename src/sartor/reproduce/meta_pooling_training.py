"""Meta-Pooling's evidence, first half: nets that must see as far as two dots are apart."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.measure import count_params
from sartor.nn.meta_pooling.layer import MetaPooling, meta_poolings
from sartor.nn.meta_pooling.search import PMPL
from sartor.nn.sources import seeded
from sartor.reproduce.two_dots import two_dots

__all__ = [
    "FULL",
    "META",
    "NEUTRAL",
    "PLAIN",
    "POOLS",
    "QUICK",
    "Schedule",
    "Trained",
    "train_all",
]

PLAIN = "plain"
NEUTRAL = "control: skip alone, same norm and activation"
META = "meta-pooling"
POOLS = ("skip", "max3", "max5", "max7", "avg3", "avg5", "avg7")
BATCH, CHANNELS = 50, 16
#: the card's
LR, ARCH_LR = 5e-3, 3e-2
#: epochs of weights alone; without them mixtures of untrained features drift to any choice
RESTING = 2


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Images that train weights, and as many that train mixtures; epochs; limits of distance."""

    images: int
    epochs: int
    limits: tuple[int, ...]


FULL = Schedule(images=1200, epochs=8, limits=(2, 4, 6))
#: a smoke test whose numbers mean little
QUICK = Schedule(images=200, epochs=5, limits=(2,))
TEST = 1000


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One net after its training.

    Attributes:
        accuracy: on test images that no choice saw.
        params: in use.
        choice: poolings that are kept.
        window: side of the largest.
        seconds: of the CPU in training.
    """

    accuracy: float
    params: int
    choice: tuple[str, ...]
    window: int
    seconds: float


def train_all(seed: int, schedule: Schedule) -> dict[tuple[str, int], Trained]:
    """Train every net for every limit: (net, limit) -> result."""
    return {
        (name, limit): _trained(name, limit, seed, schedule)
        for limit in schedule.limits
        for name in (PLAIN, NEUTRAL, META)
    }


def _net(name: str) -> nn.Sequential:
    """3 x 3 convolution, maybe pooling, two of 1 x 1, maximum over the map, classes."""
    layers: Mapping[str, list[nn.Module]] = {
        PLAIN: [],
        NEUTRAL: [MetaPooling(CHANNELS, ("skip",))],
        META: [MetaPooling(CHANNELS, POOLS)],
    }
    pooling = layers[name]
    for layer in pooling:
        if isinstance(layer, MetaPooling) and name == NEUTRAL:
            layer.fix(["skip"])
    return nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3, padding=1),
        nn.ReLU(),
        *pooling,
        nn.Conv2d(CHANNELS, CHANNELS, 1),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, 2),
    )


def _trained(name: str, limit: int, seed: int, schedule: Schedule) -> Trained:
    draw = torch.Generator().manual_seed(1000 * seed + limit)
    sizes = (schedule.images, schedule.images, TEST)
    train, held, test = (two_dots(size, limit, generator=draw) for size in sizes)
    with seeded(seed):
        model = _net(name).train()
        began = time.process_time()
        _train(model, train, held if name == META else None, schedule.epochs)
        seconds = time.process_time() - began
    with torch.inference_mode():
        right = model.eval()(test[0]).argmax(1) == test[1]
    layers = list(meta_poolings(model).values())
    return Trained(
        accuracy=float(right.float().mean()),
        params=count_params(model),
        choice=layers[0].choice if layers else (),
        window=layers[0].receptive_field() if layers else 1,
        seconds=seconds,
    )


def _train(
    model: nn.Module, train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor] | None, epochs: int
) -> None:
    search = PMPL(model, total_epochs=epochs, arch_lr=ARCH_LR) if held is not None else None
    weights = search.weights() if search else list(model.parameters())
    optimizer = torch.optim.Adam(weights, lr=LR)
    for epoch in range(1, epochs + 1):
        orders = [torch.randperm(len(train[0])).split(BATCH) for _ in range(2)]
        for chosen, other in zip(*orders, strict=True):
            if search and held is not None and search.alphas and epoch > RESTING:
                search.arch_step(held[0][other], held[1][other])
                search.maybe_fix()
            optimizer.zero_grad()
            F.cross_entropy(model(train[0][chosen]), train[1][chosen]).backward()
            nn.utils.clip_grad_norm_(weights, 5.0)
            optimizer.step()
        if search:
            search.end_epoch(epoch)
