"""The one training loop: device, precision and processes through accelerate; seeded, resumable,
always ending.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.elastic import Elastic
from sartor.core.errors import TrainingError
from sartor.core.packages import require
from sartor.train.checkpoint import load_checkpoint, save_checkpoint
from sartor.train.schedule import warmup_cosine

__all__ = ["History", "TrainSettings", "train"]

Loss = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of a training.

    Attributes:
        epochs: at least 0; 0 leaves the model as it is.
        lr: AdamW's highest rate, above 0.
        weight_decay: at least 0.
        warmup_epochs: of linear rise, at least 0; then the rate falls along half a cosine.
        precision: ``no``, ``bf16`` or ``fp16``, as accelerate names them.
        seed: of the order of the data, of dropout and of what ``on_step`` draws.
    """

    epochs: int = 10
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 0.0
    precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.lr <= 0 or self.weight_decay < 0 or self.warmup_epochs < 0:
            raise TrainingError(
                "Training takes epochs >= 0, lr > 0, weight_decay >= 0 and warmup_epochs >= 0, "
                f"got {self}."
            )
        if self.precision not in ("no", "bf16", "fp16"):
            raise TrainingError(f"The precision must be no, bf16 or fp16, got {self.precision!r}.")


@dataclass(kw_only=True)
class History:
    """What happened: mean loss and seconds of each epoch, and why it ended early (``deadline``), if
    it did.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stopped: str = ""


def _nothing(step: int) -> None:
    """What happens where no callback was given."""


class _Calls:
    """The callbacks of a step."""

    def __init__(
        self,
        on_step: Callable[[int], None] | None,
        on_backward: Callable[[int], None] | None,
    ) -> None:
        self.before = on_step or _nothing
        self.after_backward = on_backward or _nothing


def train(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    settings: TrainSettings,
    *,
    frozen: tuple[nn.Module, ...] = (),
    on_step: Callable[[int], None] | None = None,
    on_backward: Callable[[int], None] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    folder: Path | None = None,
    deadline: float = math.inf,
) -> History:
    """Train a model in place; under ``torchrun`` every process takes its part of each batch.

    Args:
        model: trained in place; left in eval mode on the device where it was.
        batches: a DataLoader of (inputs (B, ...), targets (B, ...)) and, if ``loss`` takes them,
            more tensors (B, ...); B is the joined batch of all processes.
        loss: (model, inputs, targets, ...) -> scalar.
        settings: see :class:`TrainSettings`; an elastic model names what is not decayed.
        frozen: modules that ``loss`` uses, such as a teacher; moved to the device and back, in eval
            mode.
        on_step: called with the number of each step before it; a function of that number alone, so
            that every process and every resumed run does the same.
        on_backward: called with the same number when the gradients are complete, before the
            optimiser uses them.
        on_epoch: called with the number of epochs done and the mean loss.
        folder: checkpoints go here after each epoch; an existing one is resumed.
        deadline: ``time.monotonic()`` after which no further epoch begins; one epoch is always
            done.

    Returns:
        The history of the whole training, resumed epochs included.

    Raises:
        TrainingError: the loss is not finite; the model then has the weights of the last finished
            epoch, if ``folder`` was given.
    """
    if not settings.epochs:
        model.eval()
        return History()
    device = next(model.parameters()).device
    try:
        with _generators_kept():
            return _epochs(
                model,
                batches,
                loss,
                settings,
                frozen,
                _Calls(on_step, on_backward),
                on_epoch,
                folder,
                deadline,
            )
    except FloatingPointError as error:
        kept = load_checkpoint(folder, model) if folder else None
        state = (
            f"the weights of epoch {kept['epoch']} are kept" if kept else "no epoch was finished"
        )
        raise TrainingError(
            f"{error}; {state}; lower the learning rate (now {settings.lr:g}) or look for bad "
            "inputs."
        ) from error
    finally:
        for module in (model, *frozen):
            module.eval().to(device)


def _epochs(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    settings: TrainSettings,
    frozen: tuple[nn.Module, ...],
    calls: _Calls,
    on_epoch: Callable[[int, float], None] | None,
    folder: Path | None,
    deadline: float,
) -> History:
    """All epochs that are not done yet, with a checkpoint after each."""
    accelerator, wrapped, loader, optimizer = _prepare(model, batches, settings)
    for module in frozen:
        module.eval().to(accelerator.device)
    progress = load_checkpoint(folder, model, optimizer) if folder else None
    history = History(**progress["history"]) if progress else History()
    steps = _length(loader)
    for epoch in range(len(history.losses), settings.epochs):
        started = time.monotonic()
        # the same seed in every process, as the order of the data follows it
        torch.manual_seed(settings.seed * 1_000_003 + epoch)
        mean = _epoch(wrapped, loader, loss, optimizer, accelerator, settings, epoch, steps, calls)
        history.losses.append(mean)
        history.seconds.append(time.monotonic() - started)
        late = _agreed(accelerator, time.monotonic() > deadline) and epoch + 1 < settings.epochs
        history.stopped = "deadline" if late else ""
        if folder and accelerator.is_main_process:
            done = {"epoch": epoch + 1, "history": vars(history)}
            save_checkpoint(folder, model, optimizer, done)
        if on_epoch:
            on_epoch(epoch + 1, mean)
        if late:
            break
    accelerator.wait_for_everyone()
    return history


def _prepare(model: nn.Module, batches: Iterable[Any], settings: TrainSettings) -> tuple[Any, ...]:
    accelerate = require("accelerate")
    accelerator = accelerate.Accelerator(
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
    groups = _groups(model)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    return (accelerator, *accelerator.prepare(model, batches, optimizer))


def _groups(model: nn.Module) -> list[dict[str, Any]]:
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
        {"params": decayed},
        {"params": spared, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _epoch(
    model: nn.Module,
    loader: Any,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    accelerator: Any,
    settings: TrainSettings,
    epoch: int,
    steps: int,
    calls: _Calls,
) -> float:
    """One pass over the data; returns the mean loss over all processes."""
    model.train()
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    total = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(loader):
        step = epoch * steps + number
        calls.before(step)
        factor = warmup_cosine(
            step, settings.epochs * steps, warmup=round(settings.warmup_epochs * steps)
        )
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * factor
        with accelerator.autocast():
            value = loss(model, *(part.to(accelerator.device) for part in batch))
        accelerator.backward(value)
        calls.after_backward(step)
        optimizer.step()
        optimizer.zero_grad()
        total += value.detach()
        if number % 50 == 0 or accelerator.device.type == "cpu":
            _check_finite(total, epoch, number)
    mean = accelerator.reduce(total / max(steps, 1), reduction="mean")
    _check_finite(mean, epoch, steps - 1)
    return float(mean)


def _check_finite(total: Tensor, epoch: int, step: int) -> None:
    if not math.isfinite(float(total)):
        raise FloatingPointError(
            f"The loss became {float(total)} in epoch {epoch + 1}, step {step + 1}"
        )


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except TypeError:
        return sum(1 for _ in loader)


def _agreed(accelerator: Any, late: bool) -> bool:
    """The first process's word, so that all end together."""
    if accelerator.num_processes == 1:
        return late
    said = torch.tensor(float(late), device=accelerator.device)
    torch.distributed.broadcast(said, src=0)
    return bool(said)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the global generators, of the CPU and of the current GPU, as they were found."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield
