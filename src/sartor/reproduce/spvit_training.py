"""What SPViT's evidence trains: a small transformer on digits, searched, and its rivals."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.compress.spvit import SPViTConfig, compact_, estimate_norms_, search_
from sartor.compress.spvit_cost import cost_bounds
from sartor.compress.spvit_search import Architecture, SinglePathSearch
from sartor.core import Task
from sartor.core.modes import eval_mode
from sartor.core.packages import require
from sartor.data import digits_task
from sartor.nn.sources import seeded
from sartor.train import TrainSettings, train

__all__ = ["Outcome", "outcomes", "shuffled"]

LR, TUNE_LR, DRAWS = 2e-3, 1e-3, 2
#: shares of the multiply-adds that are asked for; the card's comes first
RATIOS = (0.6, 0.4)
CONFIG = SPViTConfig(arch_lr=2e-2, lam_rel=60.0, lr=5e-4)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One seed and one share of multiply-adds.

    Attributes:
        ratio: that was asked for.
        architecture: that the search found.
        gates: multiply-adds that the gates alone chose, as a share of the whole model's.
        realised: the same after the cut between hidden units was moved to meet the target.
        free: the same of a search without penalty.
        difference: of the outputs of the searched and the derived net, relative to the largest.
        accuracies: of the model before, and after further training of the dense, the searched and
            the random nets.
        random_macs: shares of the random nets.
    """

    ratio: float
    architecture: Architecture
    gates: float
    realised: float
    free: float
    difference: float
    before: float
    dense: float
    searched: float
    random: tuple[float, ...]
    random_macs: tuple[float, ...]


def outcomes(seed: int, *, epochs: int, steps: int, tune_epochs: int) -> dict[float, Outcome]:
    """Train, search, derive, train further, and the same for random architectures; by ratio."""
    task = digits_task(batch_size=64, seed=seed, noise=0.3)
    with seeded(seed):
        dense: nn.Module = require("timm.models.vision_transformer").VisionTransformer(
            img_size=8,
            patch_size=2,
            in_chans=1,
            num_classes=10,
            embed_dim=48,
            depth=4,
            num_heads=3,
            class_token=False,
            global_pool="avg",
        )
    _train(dense, task, seed, epochs, LR)
    with seeded(seed):
        pairs, images = list(task.train), task.batch(256)
    first = replace(CONFIG, seed=seed, steps=steps, ratio=RATIOS[0])
    free = _searched(dense, pairs, replace(first, steps=max(1, steps // 3), lam_rel=0.0))
    before = task.evaluate(dense, task.validation)

    def tuned(net: nn.Module) -> float:
        _train(net, task, seed, tune_epochs, TUNE_LR)
        return task.evaluate(net, task.validation)

    def derived(architecture: Architecture) -> nn.Module:
        net = compact_(copy.deepcopy(dense), architecture, alpha=CONFIG.alpha)
        estimate_norms_(net, images)
        return net

    longer = tuned(copy.deepcopy(dense))
    made = {}
    for ratio in RATIOS:
        search = _searched(dense, pairs, replace(first, ratio=ratio))
        gates, whole = search.macs().item(), search.dense_macs
        found = search.meet_target_()
        draws = [shuffled(found, 192, seed=seed * DRAWS + i) for i in range(DRAWS)]
        made[ratio] = Outcome(
            ratio=ratio,
            architecture=found,
            gates=gates / whole,
            realised=search.macs().item() / whole,
            free=free.macs().item() / whole,
            difference=_difference(search, found, images),
            before=before,
            dense=longer,
            searched=tuned(derived(found)),
            random=tuple(tuned(derived(draw)) for draw in draws),
            random_macs=tuple(_macs(search, draw) / whole for draw in draws),
        )
    return made


def _searched(
    dense: nn.Module, pairs: list[tuple[Tensor, Tensor]], config: SPViTConfig
) -> SinglePathSearch:
    target = config.ratio * cost_bounds(dense)[1]
    search = SinglePathSearch(
        copy.deepcopy(dense), target, lam_rel=config.lam_rel, alpha=config.alpha
    )
    search_(search, pairs, lambda m, x, y: F.cross_entropy(m(x), y), config)
    return search


def _train(net: nn.Module, task: Task, seed: int, epochs: int, lr: float) -> None:
    settings = TrainSettings(epochs=epochs, lr=lr, warmup_epochs=1, seed=seed)
    train(net, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)


@torch.no_grad()
def _difference(search: SinglePathSearch, found: Architecture, images: Tensor) -> float:
    net = compact_(copy.deepcopy(search.model), found)
    with eval_mode(search, net):
        one, two = search(images), net(images)
    return float((one - two).abs().max() / one.abs().max())


def _macs(search: SinglePathSearch, architecture: Architecture) -> float:
    other = copy.deepcopy(search)
    other.choose(architecture)
    return other.macs().item()


def shuffled(architecture: Architecture, width: int, *, seed: int) -> Architecture:
    """As many of each kind and as many units in all, at random places.

    Args:
        architecture: of the search.
        width: hidden units of a block.
        seed: of the draw.
    """
    draw = random.Random(seed)
    kinds, depth = list(architecture.kinds), len(architecture.kinds)
    draw.shuffle(kinds)
    total = sum(len(units) for units in architecture.units)
    chosen = sorted(draw.sample(range(depth * width), total))
    units = tuple(tuple(c % width for c in chosen if c // width == i) for i in range(depth))
    return Architecture(kinds=tuple(kinds), units=units)
