"""The one training loop: device, precision and processes through accelerate; seeded, resumable,
always ending.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import ArtifactError, TrainingError
from sartor.train.checkpoint import load_checkpoint, save_checkpoint
from sartor.train.job import Job, OptimizerFactory, prepare_job
from sartor.train.recipe.recipe import Recipe
from sartor.train.recipe.setup import Setup
from sartor.train.recipe.switches import set_up
from sartor.train.schedule import warmup_cosine
from sartor.train.settings import History, TrainSettings

__all__ = ["History", "TrainSettings", "train"]

Loss = Callable[..., Tensor]


def train(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    settings: TrainSettings,
    *,
    recipe: Recipe | None = None,
    optimizer: OptimizerFactory | None = None,
    frozen: tuple[nn.Module, ...] = (),
    on_step: Callable[[int], None] | None = None,
    on_backward: Callable[[int], None] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
    folder: Path | None = None,
    deadline: float = math.inf,
) -> History:
    """Train a model in place; under ``torchrun`` every process takes its part of each batch.

    An epoch may have fewer steps than the first one, as with a sampler that leaves samples out:
    the learning rate and ``on_step`` then go by the share of the epoch that is done, in steps as
    long as the first epoch's. The sampler's ``set_epoch(epoch)`` is called before each epoch, maybe
    twice; one that has ``state_dict`` and ``load_state_dict`` is in the checkpoints.

    Args:
        model: trained in place; left in eval mode on the device where it was.
        batches: a DataLoader of (inputs (B, ...), targets (B, ...)) and, if ``loss`` takes them,
            more tensors (B, ...); B is the joined batch of all processes.
        loss: (model, inputs, targets, ...) -> scalar, or (B,), one of each sample, whose mean is
            taken; a recipe that leaves samples out needs the latter.
        settings: see :class:`TrainSettings`; an elastic model names what is not decayed.
        recipe: what makes the training cheaper, see :class:`~sartor.train.Recipe`; the
            history says what that changed.
        optimizer: makes the optimiser from parameter groups, each with ``params``, ``lr`` and
            ``weight_decay``; the schedule scales the ``lr`` of each of its groups. None: AdamW.
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
        SartorError: the recipe does not fit the model, the data or the machine.
    """
    if not settings.epochs:
        model.eval()
        return History()
    device = next(model.parameters()).device
    setup = Setup(
        model=model,
        batches=batches,
        loss=loss,
        settings=settings,
        optimizer=optimizer,
        before=[on_step] if on_step else [],
        after_backward=[on_backward] if on_backward else [],
    )
    try:
        with _generators_kept(), set_up(recipe or Recipe(), setup):
            return _prepared(setup, frozen, on_epoch, folder, deadline)
    finally:
        for module in (model, *frozen):
            module.eval().to(device)


def _prepared(
    setup: Setup,
    frozen: tuple[nn.Module, ...],
    on_epoch: Callable[[int, float], None] | None,
    folder: Path | None,
    deadline: float,
) -> History:
    """The training after its recipe was applied; what diverges falls back to the last epoch."""
    job = prepare_job(
        setup.model, setup.batches, setup.settings, setup.optimizer, parts=setup.parts
    )
    for module in frozen:
        module.eval().to(job.accelerator.device)
    try:
        return _epochs(job, setup, on_epoch, folder, deadline)
    except FloatingPointError as error:
        kept = load_checkpoint(folder, setup.model) if folder else None
        state = (
            f"the weights of epoch {kept['epoch']} are kept" if kept else "no epoch was finished"
        )
        raise TrainingError(
            f"{error}; {state}; lower the learning rate (now {setup.settings.lr:g}) or look for "
            "bad inputs."
        ) from error


def _epochs(
    job: Job,
    setup: Setup,
    on_epoch: Callable[[int, float], None] | None,
    folder: Path | None,
    deadline: float,
) -> History:
    """All epochs that are not done yet, with a checkpoint after each."""
    model, settings = setup.model, setup.settings
    history = _resumed(folder, model, job)
    history.changes = list(setup.changes)
    for epoch in range(len(history.losses), settings.epochs):
        started = time.monotonic()
        # the same seed in every process, as the order of the data follows it
        torch.manual_seed(settings.seed * 1_000_003 + epoch)
        steps = job.start_epoch(epoch)
        history.steps.append(steps)
        mean, samples = _epoch(job, setup, epoch, steps, history.steps[0])
        history.losses.append(mean)
        history.samples.append(samples)
        history.seconds.append(time.monotonic() - started)
        late = job.agreed(time.monotonic() > deadline) and epoch + 1 < settings.epochs
        history.stopped = "deadline" if late else ""
        if folder and job.accelerator.is_main_process:
            done = {"epoch": epoch + 1, "history": vars(history)}
            save_checkpoint(folder, model, job.optimizer, done, job.parts)
        if on_epoch:
            on_epoch(epoch + 1, mean)
        if late:
            break
    job.accelerator.wait_for_everyone()
    return history


def _resumed(folder: Path | None, model: nn.Module, job: Job) -> History:
    progress = load_checkpoint(folder, model, job.optimizer, job.parts) if folder else None
    if progress is None:
        return History()
    history = History(**progress["history"])
    if len(history.steps) != len(history.losses):
        raise ArtifactError(
            f"The checkpoint in {folder} was written by an older version of sartor, which did not "
            "count steps; start without --resume."
        )
    return history


def _epoch(job: Job, setup: Setup, epoch: int, steps: int, full: int) -> tuple[float, int]:
    """One pass over the data; returns the mean loss and the number of samples over all
    processes.
    """
    accelerator, settings = job.accelerator, setup.settings
    warmup = round(settings.warmup_epochs * full)
    total, samples = torch.zeros((), device=accelerator.device), 0
    for number, batch in enumerate(job.loader):
        step = epoch * full + number * full // steps
        setup.on_step(step)
        job.set_rates(warmup_cosine(step, settings.epochs * full, warmup=warmup))
        with setup.step(), accelerator.autocast():
            value = setup.loss(job.model, *(part.to(accelerator.device) for part in batch)).mean()
        accelerator.backward(value)
        setup.on_backward(step)
        job.optimizer.step()
        job.optimizer.zero_grad()
        total += value.detach()
        samples += len(batch[0])
        if number % 50 == 0 or accelerator.device.type == "cpu":
            _check_finite(total, epoch, number)
    mean = accelerator.reduce(total / max(steps, 1), reduction="mean")
    _check_finite(mean, epoch, steps - 1)
    seen = accelerator.reduce(torch.tensor(samples, device=accelerator.device), reduction="sum")
    return float(mean), int(seen)


def _check_finite(total: Tensor, epoch: int, step: int) -> None:
    if not math.isfinite(float(total)):
        raise FloatingPointError(
            f"The loss became {float(total)} in epoch {epoch + 1}, step {step + 1}"
        )


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the global generators, of the CPU and of the current GPU, as they were found."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield
