"""How to train a compact network for long: optimiser, schedule, averaged weights, augmentation.

Source: Liu, Hao, Han, Tang, Wang, GhostNetV3: Exploring the Training Strategies for Compact Models,
    2024, arXiv 2404.11202. Deviations: the average's decay follows the number of steps, as the
    published 0.9999 averages over more steps than a short training has. The published script cannot
    run as it is, so LAMB, its rate and its batch follow the paper's text, weight decay, warm-up and
    lowest rate the script's defaults; none of these could be checked against a run. The strengths
    of augmentation and erasing are timm's usual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sartor.core.errors import TrainingError
from sartor.core.packages import require
from sartor.losses.soft_labels import SoftLabelKD

__all__ = ["CompactRecipe", "CompactTraining", "auto_ema_decay", "prepare_compact"]


@dataclass(frozen=True, kw_only=True)
class CompactRecipe:
    """The recipe. Mixup and CutMix are no part of it: the paper found them to hurt compact models.

    Attributes:
        epochs: at least 1.
        optimizer: a name that ``timm.optim`` knows.
        lr: highest rate, for ``batch_size`` images a step; above 0.
        batch_size: images a step for which ``lr`` is meant, at least 1.
        weight_decay: of weights alone; norms and biases are spared. At least 0.
        warmup_epochs: of linear rise from ``warmup_lr``, at least 0; then half a cosine.
        warmup_lr: rate of the first step.
        min_lr: rate at the end.
        ema_decay: of the averaged weights, in [0, 1); ``None`` for :func:`auto_ema_decay`.
        augment: of timm: ``rand-...``, ``augmix-...`` or ``original``; ``None`` for none.
        erase: probability of erasing a random rectangle, in [0, 1].
        kd_weight: of the teacher's soft labels, beside the labels, which count 1; at least 0.
        temperature: of the soft labels, above 0.
        label_smoothing: in [0, 1).
    """

    epochs: int = 600
    optimizer: str = "lamb"
    lr: float = 5e-3
    batch_size: int = 2048
    weight_decay: float = 2e-5
    warmup_epochs: int = 3
    warmup_lr: float = 1e-4
    min_lr: float = 1e-5
    ema_decay: float | None = None
    augment: str | None = "rand-m9-mstd0.5"
    erase: float = 0.25
    kd_weight: float = 1.0
    temperature: float = 1.0
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not 0 <= self.warmup_epochs < self.epochs:
            raise TrainingError(
                "A compact recipe takes epochs >= 1, batch_size >= 1 and 0 <= warmup_epochs < "
                f"epochs, got {self.epochs}, {self.batch_size} and {self.warmup_epochs}."
            )
        if self.lr <= 0 or min(self.weight_decay, self.warmup_lr, self.min_lr) < 0:
            raise TrainingError(
                "A compact recipe takes lr > 0 and weight_decay, warmup_lr and min_lr >= 0, got "
                f"{self.lr}, {self.weight_decay}, {self.warmup_lr} and {self.min_lr}."
            )
        if not 0 <= self.erase <= 1 or not (self.ema_decay is None or 0 <= self.ema_decay < 1):
            raise TrainingError(
                "A compact recipe takes erase in [0, 1] and ema_decay in [0, 1) or None, got "
                f"{self.erase} and {self.ema_decay}."
            )
        self.loss()

    def loss(self) -> SoftLabelKD:
        """Labels and soft labels, to be used with :func:`sartor.distill` or in any loop.

        Raises:
            TrainingError: a setting of it is out of range.
        """
        return SoftLabelKD(
            weight=self.kd_weight,
            temperature=self.temperature,
            label_smoothing=self.label_smoothing,
        )

    def transform(
        self, input_size: Sequence[int], *, mean: Sequence[float], std: Sequence[float]
    ) -> Callable[[Any], torch.Tensor]:
        """What turns a PIL image into a training input: crop, flip, augmentation, erasing.

        Args:
            input_size: (C, H, W).
            mean: of each channel, of pixels in 0..1.
            std: likewise.
        """
        made: Callable[[Any], torch.Tensor] = require("timm.data").create_transform(
            tuple(input_size),
            is_training=True,
            auto_augment=self.augment,
            re_prob=self.erase,
            mean=tuple(mean),
            std=tuple(std),
        )
        return made


def auto_ema_decay(steps: int) -> float:
    """Decay with which the average spans a tenth of a training: 1 - 10 / steps, at most 0.9999.

    Args:
        steps: of the whole training, at least 1.

    Raises:
        TrainingError: there is no step.

    Example:
        >>> [auto_ema_decay(steps) for steps in (5, 1000, 10**6)]
        [0.0, 0.99, 0.9999]
    """
    if steps < 1:
        raise TrainingError(f"The average needs at least 1 step, got {steps}.")
    return min(0.9999, max(0.0, 1 - 10 / steps))


class CompactTraining:
    """Optimiser, schedule and averaged weights of one training; made by :func:`prepare_compact`.

    Args:
        model: what is trained.
        optimizer: of its parameters.
        scheduler: of timm, counted in steps.
        ema: of timm; ``ema.module`` is the averaged model, the one to evaluate, fold and keep.
    """

    def __init__(self, model: nn.Module, optimizer: Any, scheduler: Any, ema: Any) -> None:
        self.model, self.optimizer, self.scheduler, self.ema = model, optimizer, scheduler, ema
        self.steps = 0
        self.scheduler.step_update(0)

    @property
    def averaged(self) -> nn.Module:
        """The averaged model, in eval mode; batch-norm statistics are averaged like weights."""
        averaged: nn.Module = self.ema.module
        return averaged

    def step(self, loss: torch.Tensor) -> None:
        """Go one step: gradients, optimiser, average, rate of the next step."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.ema.update(self.model)
        self.steps += 1
        self.scheduler.step_update(self.steps)

    def state_dict(self) -> Mapping[str, Any]:
        """Everything with which a later training goes on; the model's own state included."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged.load_state_dict(state["averaged"])
        self.steps = state["steps"]
        self.scheduler.step_update(self.steps)


def prepare_compact(
    model: nn.Module,
    recipe: CompactRecipe,
    *,
    steps_per_epoch: int,
    batch_size: int | None = None,
) -> CompactTraining:
    """Make what the recipe trains a model with.

    Args:
        model: of any architecture.
        recipe: see :class:`CompactRecipe`.
        steps_per_epoch: at least 1.
        batch_size: images a step; rates shrink in proportion to the recipe's. ``None``: its own.

    Raises:
        TrainingError: a number is below 1, or timm has no such optimiser.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> recipe = CompactRecipe(epochs=2, warmup_epochs=1, lr=0.1)
        >>> training = prepare_compact(model, recipe, steps_per_epoch=3)
        >>> training.step(model(torch.ones(8, 4)).square().mean())
    """
    batch_size = batch_size or recipe.batch_size
    if steps_per_epoch < 1 or batch_size < 1:
        raise TrainingError(
            f"A training takes at least 1 step an epoch and 1 image a step, got {steps_per_epoch} "
            f"and {batch_size}."
        )
    share = batch_size / recipe.batch_size
    try:
        optimizer = require("timm.optim").create_optimizer_v2(
            model, opt=recipe.optimizer, lr=recipe.lr * share, weight_decay=recipe.weight_decay
        )
    except (ValueError, KeyError, AssertionError) as error:
        raise TrainingError(
            f"timm cannot make the optimiser {recipe.optimizer!r} ({error}); see "
            "timm.optim.list_optimizers()."
        ) from error
    steps = recipe.epochs * steps_per_epoch
    scheduler = require("timm.scheduler").CosineLRScheduler(
        optimizer,
        t_initial=steps - recipe.warmup_epochs * steps_per_epoch,
        lr_min=recipe.min_lr * share,
        warmup_t=recipe.warmup_epochs * steps_per_epoch,
        warmup_lr_init=recipe.warmup_lr * share,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    decay = auto_ema_decay(steps) if recipe.ema_decay is None else recipe.ema_decay
    ema = require("timm.utils").ModelEmaV3(model, decay=decay)
    return CompactTraining(model, optimizer, scheduler, ema)
