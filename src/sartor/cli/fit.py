"""``sartor fit``: the main job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sartor.cli.progress import TerminalProgress
from sartor.core import BudgetError, Frontier, SartorError, Target

__all__ = ["fit_command"]

_console = Console()
_DEMO_BATCH = 32


def fit_command(
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="timm names, package.module:function or RUN/points/ID, each with @weights if you "
            "like; default: the demo's family."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, a folder with train and val, a .npz file, hub:owner/name."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="cpu/eager, cpu/compile, cpu/onnxruntime, cuda/eager, cuda/compile."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="For example 'latency<=12ms' 'params<=60%' 'accuracy>=0.9'."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the target (CPU).")] = None,
    batch: Annotated[int | None, typer.Option(help="Inputs in one call of the target.")] = None,
    pretrained: Annotated[
        bool, typer.Option(help="Take published weights of timm models.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Joint training of the elastic net.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Begin nothing new after this time.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Makes the family elastic: sn-net, see `sartor methods`; none."),
    ] = None,
    routes: Annotated[int | None, typer.Option(help="Elastic configurations to make.")] = None,
    moves: Annotated[
        str | None,
        typer.Option(help="Comma-separated, see `sartor methods`; none; default: all."),
    ] = None,
    recovery: Annotated[
        str | None,
        typer.Option(
            help="How a changed model learns from the largest: auto, soft, hard, vanilla, manifold."
        ),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(help="Comma-separated: latency_ms, size_bytes, params, flops; first orders."),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(help="What every training saves, comma-separated: data, memory, steps."),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of training: no, bf16, fp16.")] = None,
    batch_size: Annotated[int, typer.Option(help="Of training, over all processes.")] = 64,
    workers: Annotated[int, typer.Option(help="Loading processes.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Of every random choice.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: runs/<data>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the frontier as JSON.")] = False,
) -> None:
    """Turn a family of models into a measured accuracy-versus-cost frontier of ready models."""
    from sartor.fit import FitSettings, Loading, prepare_run

    demo = models is None and data is None
    asked = {
        "engine": engine,
        "recovery": recovery,
        "epochs": epochs,
        "lr": lr,
        "seconds": seconds,
        "routes": routes,
        "seed": seed,
        "precision": precision,
        "moves": _words(moves),
        "costs": _words(cost),
        "save": _words(save),
    }
    given = {key: value for key, value in asked.items() if value is not None}
    with TerminalProgress() as progress:
        run = prepare_run(
            models,
            data,
            target=Target.parse(
                target,
                threads=threads,
                batch=_DEMO_BATCH if demo and batch is None else batch,
            ),
            budget=budget,
            out=out or Path("runs") / ("demo" if demo else _name(data)),
            settings=FitSettings.from_dict({**(_DEMO if demo else {}), **given}),
            loading=Loading(pretrained=pretrained, batch_size=batch_size, workers=workers),
            progress=progress,
            dry=dry_run,
        )
        if dry_run:
            progress.bars.stop()
            _console.print_json(data=run.plan())
            return
        try:
            frontier = run.execute(resume=resume, overwrite=overwrite)
        except (SartorError, KeyboardInterrupt):
            progress.bars.stop()
            _show_kept(run.folder)
            raise
    if as_json:
        sys.stdout.write(json.dumps(frontier.to_dict()) + "\n")
    else:
        show(frontier, run.folder)
    if run.budget.constraints:
        frontier.best()  # an unsatisfiable budget ends in its sentence


#: the demo's own settings, so that it ends within four minutes on two cores
_DEMO = {
    "epochs": 10,
    "routes": 5,
    "prune_ratios": [0.75],
    "recovery_epochs": 16,
    "recovery_lr": 6e-3,
}


def _words(text: str | None) -> list[str] | None:
    words = [word.strip() for word in text.split(",") if word.strip()] if text else None
    return [] if words == ["none"] else words


def _name(data: str | None) -> str:
    return Path(data or "run").stem.replace(":", "-") or "run"


def show(frontier: Frontier, folder: Path) -> None:
    """Print a frontier's table, what its budget picks, and where the report is."""
    from sartor.fit.table import frontier_table

    _console.print(frontier_table(frontier))
    for note in frontier.notes:
        _console.print(f"Note: {note}", highlight=False, markup=False)
    if frontier.budget.constraints:
        try:
            best = frontier.best()
            binds = ", ".join(c.text for c in frontier.binding()) or "nothing binds"
            _console.print(f"Within {frontier.budget}: {best.id} ({binds})", markup=False)
        except BudgetError:
            pass  # the caller raises it again, behind the table
    if not frontier.complete:
        _console.print(
            f"Not finished; go on with: sartor fit ... --out {folder} --resume", markup=False
        )
    report = folder / "report.html"
    _console.print(
        f"Report: {report}" if report.exists() else f"Run: {folder}", markup=False, soft_wrap=True
    )


def _show_kept(folder: Path) -> None:
    if (folder / "frontier.json").exists():
        show(Frontier.load(folder), folder)
