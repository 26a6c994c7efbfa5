"""CowClip's evidence, first half: one click log, one model, trained by every rule; no choice reads
the reported split.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sartor.data.auc import roc_auc
from sartor.data.click_log import CARDINALITIES, ClickLog, draw_click_log
from sartor.nn.deepfm import DeepFM
from sartor.nn.sources import seeded
from sartor.train.cowclip.optimizer import CowClip, cowclip_adam
from sartor.train.cowclip.scaling import (
    ScaledRates,
    cowclip_scaling,
    dense_warmup,
    linear_scaling,
    sqrt_scaling,
)

__all__ = [
    "BASE",
    "COWCLIP",
    "FULL",
    "L2",
    "LINEAR",
    "NOTHING",
    "QUICK",
    "SCALING",
    "SQRT",
    "Regime",
    "Trained",
    "train_all",
]

BASE = "base"
NOTHING = "nothing scaled"
SQRT = "sqrt rule"
LINEAR = "linear rule"
SCALING = "CowClip scaling, clipping off"
COWCLIP = "CowClip"
#: a ratio at which nothing is ever clipped: the same code without its effect
NEVER = 1e9
#: deviation of the tables' first entries, as published: without CowClip, and with it
PLAIN_STD, COWCLIP_STD = 1e-4, 1e-2
SELECTION, VALIDATION = 8_192, 40_000
LR_DENSE, LR_EMBEDDING = 1e-3, 1e-3
#: the published one; not tuned here
L2 = 1e-5

Rule = Callable[[int, int, float, float, float], ScaledRates]


@dataclass(frozen=True, kw_only=True)
class Regime:
    """How much there is to learn from.

    Attributes:
        name: of the regime.
        views: to train on.
        epochs: of training.
        base: views a batch that rates and penalty belong to.
        batch: of the runs that are scaled.
    """

    name: str
    views: int
    epochs: int
    base: int
    batch: int


MANY = Regime(name="many steps", views=65_536, epochs=6, base=64, batch=1024)
FEW = Regime(name="few steps", views=131_072, epochs=3, base=256, batch=8192)
FULL = (MANY, FEW)
QUICK = (
    Regime(name="many steps", views=8_192, epochs=2, base=64, batch=512),
    Regime(name="few steps", views=8_192, epochs=1, base=256, batch=2048),
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One model after its training: scores on the reported views, AUC on those to choose on, share
    of rows that were clipped, steps and CPU seconds.
    """

    auc: float
    log_loss: float
    selection: float
    clipped: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class _Run:
    """A run as a rule and what goes with it."""

    rule: Rule | None
    r: float = NEVER
    init_std: float = PLAIN_STD
    scaled: bool = True


_RUNS: Mapping[str, _Run] = {
    BASE: _Run(None, scaled=False),
    NOTHING: _Run(None),
    SQRT: _Run(sqrt_scaling),
    LINEAR: _Run(linear_scaling),
    SCALING: _Run(cowclip_scaling, init_std=COWCLIP_STD),
    COWCLIP: _Run(cowclip_scaling, r=1.0, init_std=COWCLIP_STD),
}


def train_all(seed: int, regime: Regime, *, l2: float = L2) -> tuple[float, dict[str, Trained]]:
    """Train the model by every rule on one log.

    Args:
        seed: of the log, the weights and the order of the views.
        regime: sizes.
        l2: penalty at the base batch.

    Returns:
        The best possible AUC on the reported views; run -> what came of it.
    """
    log = draw_click_log(regime.views + SELECTION + VALIDATION, seed=seed)
    found = {name: _train(run, log, regime, seed, l2) for name, run in _RUNS.items()}
    return log[-VALIDATION:].best_auc, found


def _train(run: _Run, log: ClickLog, regime: Regime, seed: int, l2: float) -> Trained:
    batch = regime.batch if run.scaled else regime.base
    rates = ScaledRates(lr_dense=LR_DENSE, lr_embedding=LR_EMBEDDING, l2=l2)
    if run.rule:
        rates = run.rule(regime.base, batch, LR_DENSE, LR_EMBEDDING, l2)
    began = time.process_time()
    with seeded(seed):
        model = DeepFM(CARDINALITIES, embed_dim=10, hidden=(64, 64), init_std=run.init_std)
    optimizer = cowclip_adam(model, rates, r=run.r)
    _fit(model, optimizer, rates, log[: regime.views], batch, regime.epochs, seed)
    with torch.inference_mode():
        held = log[regime.views :]
        logits = model(held.ids)
    shown, wanted = logits[SELECTION:], held.clicks[SELECTION:]
    return Trained(
        auc=roc_auc(shown, wanted),
        log_loss=float(F.binary_cross_entropy_with_logits(shown, wanted)),
        selection=roc_auc(logits[:SELECTION], held.clicks[:SELECTION]),
        clipped=optimizer.clipped_share,
        steps=regime.epochs * (regime.views // batch),
        seconds=time.process_time() - began,
    )


def _fit(
    model: DeepFM,
    optimizer: CowClip,
    rates: ScaledRates,
    log: ClickLog,
    batch: int,
    epochs: int,
    seed: int,
) -> None:
    """Every epoch in an order of its own, incomplete batches left out."""
    generator = torch.Generator().manual_seed(seed)
    steps = len(log) // batch
    dense = optimizer.param_groups[1]
    for epoch in range(epochs):
        order = torch.randperm(len(log), generator=generator)[: steps * batch]
        for number, views in enumerate(order.view(steps, batch)):
            dense["lr"] = dense_warmup(
                epoch * steps + number, rates.warmup_epochs * steps, lr=rates.lr_dense
            )
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(log.ids[views]), log.clicks[views]).backward()
            optimizer.step()
