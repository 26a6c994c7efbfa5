"""A training made ready: model, data and optimiser as accelerate hands them to this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.elastic import Elastic
from sartor.core.errors import TrainingError
from sartor.core.packages import require
from sartor.train.settings import TrainSettings

__all__ = ["Job", "OptimizerFactory", "prepare_job", "several_on_cpus"]

#: parameter groups, each with ``params``, ``lr`` and ``weight_decay`` -> optimiser
OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


@dataclass(kw_only=True)
class Job:
    """What an epoch needs.

    Attributes:
        accelerator: of accelerate.
        model: as this process calls it.
        loader: this process's part of the batches.
        optimizer: steps the model.
        rates: highest learning rate of each of its groups.
        parts: what has a state beside model and optimiser, by name; in checkpoints.
        steps: of each epoch, if the loader has no length.
    """

    accelerator: Any
    model: nn.Module
    loader: Any
    optimizer: torch.optim.Optimizer
    rates: list[float]
    parts: dict[str, Any]
    steps: int | None

    def start_epoch(self, epoch: int) -> int:
        """Let the data know which epoch begins; returns its number of steps."""
        self.model.train()
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)
        return len(self.loader) if self.steps is None else self.steps

    def set_rates(self, factor: float) -> None:
        """Every group's learning rate as a share of its highest one."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if isinstance(group["lr"], Tensor):  # some optimisers keep it on the device
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor

    def agreed(self, late: bool) -> bool:
        """The first process's word, so that all end together."""
        if self.accelerator.num_processes == 1:
            return late
        said = torch.tensor(float(late), device=self.accelerator.device)
        torch.distributed.broadcast(said, src=0)
        return bool(said)


def prepare_job(
    model: nn.Module,
    batches: Iterable[Any],
    settings: TrainSettings,
    optimizer: OptimizerFactory | None = None,
    parts: Mapping[str, Any] | None = None,
) -> Job:
    """Make a training ready on this process's device.

    Args:
        model: its parameters that need a gradient are trained.
        batches: a DataLoader, or in one process any iterable of batches.
        settings: precision, rates and seed.
        optimizer: makes the optimiser; none: ``torch.optim.AdamW``.
        parts: what has a state of its own, by name; the batches' sampler joins them if it has one.

    Raises:
        TrainingError: several processes cannot split the batches.
    """
    accelerate = require("accelerate")
    _forget_precision(settings.precision)
    accelerator = accelerate.Accelerator(
        cpu=several_on_cpus(),
        mixed_precision=settings.precision,
        dataloader_config=accelerate.DataLoaderConfiguration(
            split_batches=True, use_seedable_sampler=True, data_seed=settings.seed
        ),
        kwargs_handlers=[
            accelerate.DistributedDataParallelKwargs(
                # a sampled configuration leaves most parameters of an elastic net without gradient
                find_unused_parameters=any(isinstance(m, Elastic) for m in model.modules())
            )
        ],
    )
    if accelerator.num_processes > 1 and not isinstance(batches, torch.utils.data.DataLoader):
        raise TrainingError(
            "Several processes need a torch DataLoader that can be split among them, "
            f"got {type(batches).__name__}; give one or train in one process."
        )
    model.train()
    made = (optimizer or torch.optim.AdamW)(_groups(model, settings))
    rates = [float(group["lr"]) for group in made.param_groups]
    sampler = getattr(batches, "sampler", None)
    stateful = hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict")
    wrapped, loader, prepared = accelerator.prepare(model, batches, made)
    return Job(
        accelerator=accelerator,
        model=wrapped,
        loader=loader,
        optimizer=prepared,
        rates=rates,
        parts={**(parts or {}), **({"sampler": sampler} if stateful else {})},
        steps=_counted(loader),
    )


def several_on_cpus() -> bool:
    """Whether this is one of several processes without an accelerator, which accelerate takes for
    one alone unless it is told.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def _forget_precision(wanted: str) -> None:
    """Let accelerate take another precision than the first one of this process."""
    state = require("accelerate.state").AcceleratorState
    if state._shared_state and state().mixed_precision != wanted:
        state._reset_state()


def _counted(loader: Any) -> int | None:
    """How many batches a loader without a length has."""
    try:
        len(loader)
    except TypeError:
        return sum(1 for _ in loader)
    return None


def _groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """What is trained, with weight decay and, where an elastic net asks for it, without."""
    exempt = {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, Elastic)
        for name in module.no_weight_decay()
    }
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if name not in exempt]
    spared = [p for name, p in trained if name in exempt]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "lr": settings.lr, "weight_decay": settings.weight_decay},
        {"params": spared, "lr": settings.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
