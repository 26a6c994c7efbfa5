"""What the evidence of low-precision trains: a network of three linear layers on the digits, with
the three products of each layer, the weights, or the optimiser's moments in few bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.packages import require
from sartor.data.split import hold_out
from sartor.nn.sources import seeded
from sartor.train import (
    StochasticRounding,
    bake_steps_,
    learn_steps_,
    low_bit_adamw,
    prepare_low_precision_,
    quantize,
    state_bytes,
)

__all__ = ["FULL", "QUICK", "Digits", "Plan", "Trained", "adapted", "after_training", "trained"]

HELD_OUT, BATCH, LR, WIDE_LR = 597, 64, 1e-3, 1e-4
QAT_LR = 1e-3
#: stands for a loss that is not finite
BROKEN = 99.0


@dataclass(frozen=True)
class Plan:
    """Steps of each training, and of the training with quantised weights."""

    steps: int
    qat_steps: int


FULL = Plan(400, 150)
QUICK = Plan(30, 10)


@dataclass(frozen=True)
class Digits:
    """Digits of one seed, pixels standardised by the training images."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, seed: int) -> Digits:
        """1200 images train, 597 are reported; nothing is chosen on them."""
        bunch = require("sklearn.datasets").load_digits()
        pixels = torch.tensor(bunch.data, dtype=torch.float32)  # (N, 64)
        labels = torch.tensor(bunch.target, dtype=torch.int64)
        kept, held = hold_out(labels, HELD_OUT, seed=seed)
        pixels = (pixels - pixels[kept].mean()) / pixels[kept].std()
        return cls((pixels[kept], labels[kept]), (pixels[held], labels[held]))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One trained network.

    Attributes:
        model: itself.
        loss: mean cross entropy over all training images, after training.
        accuracy: on the reported images.
        state_bytes: of the optimiser.
        seconds: CPU time.
    """

    model: nn.Module
    loss: float
    accuracy: float
    state_bytes: int
    seconds: float


def _net(seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(
            *(nn.Linear(64, 256), nn.ReLU()),
            *(nn.Linear(256, 256), nn.ReLU()),
            nn.Linear(256, 32),  # ten of them are used
        )


def _adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr)


def trained(plan: Plan, digits: Digits, seed: int, how: Mapping[str, Any]) -> Trained:
    """Train one variant; variants of a seed share weights and batches.

    Args:
        plan: its steps.
        digits: of the seed.
        seed: of weights, batches and random rounding.
        how: ``recipe`` of the products, ``bits`` of the moments, ``weights`` (``nearest`` or
            ``stochastic``) for bfloat16 weights, ``lr``.
    """
    model = _net(seed)
    lr = float(how.get("lr", LR))
    if recipe := how.get("recipe"):
        prepare_low_precision_(model, str(recipe), seed=seed)
    rounding = how.get("weights", "")
    if rounding:
        model = model.to(torch.bfloat16)
    bits = how.get("bits")
    optimizer = low_bit_adamw(model.parameters(), bits, lr=lr) if bits else _adamw(model, lr)
    if rounding == "stochastic":
        optimizer = StochasticRounding(optimizer, seed=seed)
    return _fit(model, optimizer, digits, plan.steps, lr, seed)


def adapted(plan: Plan, digits: Digits, seed: int, base: nn.Module, bits: int) -> Trained:
    """Train on from ``base`` with weights of ``bits`` and a learned step, and bake them; 0 bits
    train on plainly.
    """
    model = _copy(base)
    if bits:
        learn_steps_(model, bits)
    optimizer = _adamw(model, QAT_LR)
    made = _fit(model, optimizer, digits, plan.qat_steps, QAT_LR, seed + 100)
    if bits:
        bake_steps_(model)
    return made


def after_training(digits: Digits, base: nn.Module, bits: int, *, step: bool) -> float:
    """Accuracy of ``base`` with its weights quantised once: by rows with the largest weight as
    scale, or with the step that LSQ begins from.
    """
    model = _copy(base)
    if step:
        learn_steps_(model, bits)
        bake_steps_(model)
        return _judged(model, digits)[1]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = quantize(module.weight.data, f"int{bits}", "row").dequantize()
    return _judged(model, digits)[1]


def _copy(base: nn.Module) -> nn.Module:
    model = _net(0)
    model.load_state_dict(base.state_dict())
    return model


def _fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    digits: Digits,
    steps: int,
    lr: float,
    seed: int,
) -> Trained:
    draw = torch.Generator().manual_seed(seed)
    images, labels = digits.train
    kind = next(model.parameters()).dtype
    began = time.process_time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        chosen = torch.randint(len(images), (BATCH,), generator=draw)
        logits = model(images[chosen].to(kind))[:, :10].float()  # (B, 10)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[chosen]).backward()
        optimizer.step()
    seconds = time.process_time() - began
    loss, accuracy = _judged(model, digits)
    return Trained(
        model=model,
        loss=loss,
        accuracy=accuracy,
        state_bytes=state_bytes(optimizer),
        seconds=seconds,
    )


@torch.inference_mode()
def _judged(model: nn.Module, digits: Digits) -> tuple[float, float]:
    kind = next(model.parameters()).dtype
    run: Callable[[Tensor], Tensor] = lambda x: model(x.to(kind))[:, :10].float()  # noqa: E731
    model.eval()
    found = float(F.cross_entropy(run(digits.train[0]), digits.train[1]))
    loss = found if math.isfinite(found) else BROKEN
    right = run(digits.test[0]).argmax(1) == digits.test[1]
    model.train()
    return loss, float(right.float().mean())
