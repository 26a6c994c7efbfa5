"""Preparing a run: everything that the user gave, parsed and checked at the edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sartor.core import Budget, DataError, Family, Target, Task
from sartor.data import load_task
from sartor.fit.demo import demo_family
from sartor.fit.executor import Run
from sartor.fit.progress import Progress
from sartor.fit.settings import FitSettings
from sartor.nn import check_family, load_family, preferred_input

__all__ = ["Loading", "prepare_run"]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How models and data are loaded; nothing of it shapes a recipe.

    Attributes:
        pretrained: whether timm models come with published weights.
        factories: ``package.module:function`` names that checkpoint folders may import.
        batch_size: inputs in a training step, over all processes.
        workers: loading processes.
    """

    pretrained: bool = False
    factories: tuple[str, ...] = ()
    batch_size: int = 64
    workers: int = 0


def prepare_run(
    models: Family | Sequence[str] | None = None,
    data: Task | str | Path | None = None,
    *,
    target: Target | str | None = None,
    budget: Budget | str | Sequence[str] | None = None,
    out: str | Path = "runs/latest",
    settings: FitSettings | None = None,
    loading: Loading | None = None,
    progress: Progress | None = None,
    dry: bool = False,
) -> Run:
    """Parse and check everything that ``fit`` takes, and do nothing yet but train the demo's
    family.

    ``dry`` leaves even that untrained, for :meth:`Run.plan`; all else is as in ``fit``.

    Raises:
        SartorError: what was given cannot be read or does not fit together.
    """
    settings, loading = settings or FitSettings(), loading or Loading()
    parsed, wanted = Target.parse(target), Budget.parse(budget)
    if models is not None and data is None:
        raise DataError(
            "Models were given without data; name data too, for example digits, a folder or an "
            ".npz file."
        )
    task = _task(models, "digits" if data is None else data, settings.seed, loading)
    heard = progress or Progress()
    if models is None:
        family = demo_family(task, heard, trained=not dry)
    elif isinstance(models, Family):
        family = models
        check_family(family, task.example, task.num_classes)
    else:
        family = load_family(
            list(models), task=task, pretrained=loading.pretrained, factories=loading.factories
        )
    return Run(
        family=family,
        task=task,
        target=parsed,
        budget=wanted,
        settings=settings,
        folder=Path(out),
        progress=heard,
    )


def _task(
    models: Family | Sequence[str] | None, data: Task | str | Path, seed: int, loading: Loading
) -> Task:
    """Published weights want the inputs that they were trained on; fresh ones are made to fit."""
    named = isinstance(models, Sequence) and loading.pretrained
    prefers = preferred_input(list(models)) if named else None  # type: ignore[arg-type]
    return load_task(
        data,
        batch_size=loading.batch_size,
        image_size=prefers.size if prefers else None,
        normalization=(prefers.mean, prefers.std) if prefers else None,
        seed=seed,
        workers=loading.workers,
    )
