"""The main job: a family, a task and a budget in, a measured frontier of ready models out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sartor.core import Budget, DataError, Family, Frontier, Target, Task
from sartor.data import load_task
from sartor.fit.demo import demo_family
from sartor.fit.executor import Run
from sartor.fit.progress import Progress
from sartor.fit.settings import FitSettings
from sartor.nn import check_family, load_family, preferred_input

__all__ = ["FitSettings", "Progress", "fit", "prepare_run"]


def prepare_run(
    models: Family | Sequence[str] | None = None,
    data: Task | str | Path | None = None,
    *,
    target: Target | str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    budget: Budget | str | Sequence[str] | None = None,
    out: str | Path = "runs/latest",
    settings: FitSettings | None = None,
    pretrained: bool = False,
    factories: Iterable[str] = (),
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
    dry: bool = False,
) -> Run:
    """Parse and check everything that :func:`fit` takes, and do nothing yet but train the demo's
    family.

    ``dry`` leaves even that untrained, for :meth:`Run.plan`; all else is as in :func:`fit`.

    Raises:
        SartorError: what was given cannot be read or does not fit together.
    """
    settings, progress = settings or FitSettings(), progress or Progress()
    parsed = Target.parse(target, threads=threads, batch=batch)
    wanted = Budget.parse(budget)
    if models is not None and data is None:
        raise DataError(
            "Models were given without data; name data too, for example digits, a folder or an "
            ".npz file."
        )
    named = None if models is None or isinstance(models, Family) else list(models)
    # published weights want the inputs that they were trained on; fresh ones are made for the
    # data's
    prefers = preferred_input(named) if named and pretrained else None
    task = load_task(
        data if data is not None else "digits",
        batch_size=batch_size,
        image_size=prefers.size if prefers else None,
        normalization=(prefers.mean, prefers.std) if prefers else None,
        seed=settings.seed,
        workers=workers,
    )
    if models is None:
        family = demo_family(task, progress, trained=not dry)
    elif isinstance(models, Family):
        family = models
        check_family(family, task.example, task.num_classes)
    else:
        family = load_family(list(models), task=task, pretrained=pretrained, factories=factories)
    return Run(
        family=family,
        task=task,
        target=parsed,
        budget=wanted,
        settings=settings,
        folder=Path(out),
        progress=progress,
    )


def fit(
    models: Family | Sequence[str] | None = None,
    data: Task | str | Path | None = None,
    *,
    target: Target | str | None = None,
    threads: int | None = None,
    batch: int | None = None,
    budget: Budget | str | Sequence[str] | None = None,
    out: str | Path = "runs/latest",
    settings: FitSettings | None = None,
    pretrained: bool = False,
    factories: Iterable[str] = (),
    batch_size: int = 64,
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Frontier:
    """Cut a family of models to a budget.

    Args:
        models: a :class:`~sartor.core.Family`, or names as :func:`sartor.nn.load_family` takes
            them; none: the demo's.
        data: a :class:`~sartor.core.Task`, or what :func:`sartor.data.load_task` takes; none:
            digits.
        target: ``device/runtime``; default: cuda/compile with a GPU, else cpu/onnxruntime.
        threads: of one operator in the target (CPU), at least 1; default 1.
        batch: inputs in one call of the target, at least 1; default 1.
        budget: such as ``"latency<=12ms, params<=60%"``.
        out: the run's folder.
        settings: everything else that shapes the result.
        pretrained: whether timm models come with published weights.
        factories: factory paths that checkpoint folders among ``models`` may import.
        batch_size: of training, over all processes.
        workers: loading processes.
        resume: go on with the run in ``out``.
        overwrite: replace the run in ``out``.
        progress: is told what happens.

    Returns:
        The frontier; the same is in ``out``, with the files of every point.

    Raises:
        SartorError: with one sentence on what is wrong and what to do.

    Example:
        >>> frontier = fit(out="runs/demo")  # doctest: +SKIP
        >>> model = frontier.best("latency<=5ms").load_model()  # doctest: +SKIP
    """
    run = prepare_run(
        models,
        data,
        target=target,
        threads=threads,
        batch=batch,
        budget=budget,
        out=out,
        settings=settings,
        pretrained=pretrained,
        factories=factories,
        batch_size=batch_size,
        workers=workers,
        progress=progress,
    )
    return run.execute(resume=resume, overwrite=overwrite)
