"""The main job: a family, a task and a budget in, a measured frontier of ready models out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sartor.core import Budget, Family, Frontier, Target, Task
from sartor.fit.prepare import Loading, prepare_run
from sartor.fit.progress import Progress
from sartor.fit.settings import FitSettings

__all__ = ["FitSettings", "Loading", "Progress", "fit", "prepare_run"]


def fit(
    models: Family | Sequence[str] | None = None,
    data: Task | str | Path | None = None,
    *,
    target: Target | str | None = None,
    budget: Budget | str | Sequence[str] | None = None,
    out: str | Path = "runs/latest",
    settings: FitSettings | None = None,
    loading: Loading | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Frontier:
    """Cut a family of models to a budget.

    Under ``torchrun`` all processes train the stitched net together; then the first goes on alone,
    and the others end with ``SystemExit(0)``.

    Args:
        models: a :class:`~sartor.core.Family`, or names as :func:`sartor.nn.load_family` takes
            them; none: the demo's.
        data: a :class:`~sartor.core.Task`, or what :func:`sartor.data.load_task` takes; none:
            digits.
        target: a :class:`~sartor.core.Target` (with threads and batch), or ``device/runtime``;
            default: cuda/compile with a GPU, else cpu/onnxruntime; one thread, batch 1.
        budget: such as ``"latency<=12ms, params<=60%"``.
        out: the run's folder.
        settings: all that shapes the result.
        loading: how models and data are loaded.
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
        budget=budget,
        out=out,
        settings=settings,
        loading=loading,
        progress=progress,
    )
    return run.execute(resume=resume, overwrite=overwrite)
