"""AutoRF's evidence, first half: small nets with a gate, with searched cells and with controls must
see as far as two dots are apart.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.measure import count_params
from sartor.nn.autorf.cell import RFCell
from sartor.nn.autorf.gates import ChannelGate
from sartor.nn.autorf.genotype import GENOTYPES, Genotype
from sartor.nn.autorf.ops import SPACES
from sartor.nn.autorf.search import DifferentiableSearch, SearchCell
from sartor.nn.sources import seeded
from sartor.reproduce.two_dots import two_dots

__all__ = [
    "FULL",
    "GATE",
    "NOISE",
    "PUBLISHED",
    "QUICK",
    "RANDOM",
    "SEARCHED",
    "Schedule",
    "Trained",
    "random_genotype",
    "train_all",
]

GATE = "channel gate alone"
NOISE = "control: cell without pooling"
RANDOM = "control: random cell"
PUBLISHED = "published cell P1"
SEARCHED = "searched cell"
BATCH, CHANNELS, LR, ARCH_LR, TEST = 50, 16, 5e-3, 3e-2, 1000


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Distance; images that train weights, and as many that train mixtures; lengths, of digits
    too.
    """

    limit: int
    images: int
    epochs: int
    search_steps: int
    digits_epochs: int


FULL = Schedule(limit=6, images=1000, epochs=8, search_steps=80, digits_epochs=6)
#: a smoke test whose numbers mean little
QUICK = Schedule(limit=6, images=200, epochs=1, search_steps=4, digits_epochs=1)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One net after its training.

    Attributes:
        accuracy: on test images that no choice saw.
        params: of the net.
        windows: sides of its poolings.
        seconds: of the CPU, the search included.
    """

    accuracy: float
    params: int
    windows: tuple[int, ...]
    seconds: float


def random_genotype(seed: int) -> Genotype:
    """Draw an operation other than ``none`` for each of the six edges."""
    draw = random.Random(seed)
    return Genotype(
        tuple(
            tuple((draw.choice(SPACES["fullpool"][1:]), source) for source in range(node))
            for node in (1, 2, 3)
        )
    )


def train_all(seed: int, schedule: Schedule) -> dict[str, Trained]:
    """Search once, then train every net from scratch."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (schedule.images, schedule.images, TEST)
    train, held, test = (two_dots(size, schedule.limit, generator=draw) for size in sizes)
    began = time.process_time()
    found = _search(seed, train, held, schedule.search_steps)
    searching = time.process_time() - began
    without = Genotype(tuple(tuple(("noise", s) for s in range(n)) for n in (1, 2, 3)))
    cells: dict[str, Genotype | None] = {
        GATE: None,
        NOISE: without,
        RANDOM: random_genotype(seed),
        PUBLISHED: GENOTYPES["P1"],
        SEARCHED: found,
    }
    return {
        name: _trained(genotype, seed, train, test, schedule.epochs, searching * (name == SEARCHED))
        for name, genotype in cells.items()
    }


def _net(middle: nn.Module) -> nn.Sequential:
    """Two 3 x 3 convolutions with a layer between them, maximum over the map, classes."""
    return nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3, padding=1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        middle,
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, 2),
    )


def _search(
    seed: int, train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], steps: int
) -> Genotype:
    with seeded(seed):
        model = _net(SearchCell(CHANNELS)).train()
        search = DifferentiableSearch(model, arch_lr=ARCH_LR)
        weights = search.weights()
        optimizer = torch.optim.Adam(weights, lr=LR)
        for _ in range(steps):
            chosen, other = (torch.randint(len(train[0]), (BATCH,)) for _ in range(2))
            search.arch_step(held[0][other], held[1][other])
            _step(model, optimizer, weights, train[0][chosen], train[1][chosen])
    return search.genotype()


def _trained(
    genotype: Genotype | None,
    seed: int,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    epochs: int,
    searching: float,
) -> Trained:
    with seeded(seed):
        middle = ChannelGate(CHANNELS) if genotype is None else RFCell(CHANNELS, genotype)
        model = _net(middle).train()
        weights = list(model.parameters())
        optimizer = torch.optim.Adam(weights, lr=LR)
        began = time.process_time()
        for _ in range(epochs):
            for chosen in torch.randperm(len(train[0])).split(BATCH):
                _step(model, optimizer, weights, train[0][chosen], train[1][chosen])
        seconds = time.process_time() - began
    with torch.inference_mode():
        right = model.eval()(test[0]).argmax(1) == test[1]
    return Trained(
        accuracy=float(right.float().mean()),
        params=count_params(model),
        windows=genotype.windows if genotype else (),
        seconds=seconds + searching,
    )


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: list[nn.Parameter],
    images: Tensor,
    labels: Tensor,
) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    nn.utils.clip_grad_norm_(weights, 5.0)
    optimizer.step()
