"""``sartor show``, ``pick`` and ``export``: what to do with a finished run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sartor.core import Frontier

__all__ = ["export_command", "pick_command", "show_command"]

_console = Console()
_Run = Annotated[Path, typer.Argument(help="The run's folder.")]
_Budget = Annotated[
    list[str] | None,
    typer.Option(help="Default: the budget of the run; none: the most accurate point."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show_command(run: _Run, as_json: _Json = False) -> None:
    """Show the frontier of a run."""
    from sartor.cli.fit import show

    frontier = Frontier.load(run)
    if as_json:
        sys.stdout.write(json.dumps(frontier.to_dict()) + "\n")
    else:
        show(frontier, run)


def pick_command(run: _Run, budget: _Budget = None, as_json: _Json = False) -> None:
    """Name the most accurate point within a budget."""
    frontier = Frontier.load(run)
    asked = ", ".join(budget) if budget else None
    point = frontier.best(asked)
    if as_json:
        sys.stdout.write(json.dumps(point.to_dict()) + "\n")
        return
    cost = point.measurement
    binding = ", ".join(c.text for c in frontier.binding(asked)) or "nothing"
    _console.print(
        f"{point.id}: accuracy {point.accuracy:.4f}, {cost.latency_ms:.3g} ms ({frontier.target}), "
        f"{cost.size_bytes / 1e6:.3g} MB; binds: {binding}; files: {run / 'points' / point.id}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def export_command(
    run: _Run,
    budget: _Budget = None,
    format: Annotated[str, typer.Option(help="onnx or torch_export.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: <point>.onnx or .pt2.")
    ] = None,
    factory: Annotated[
        list[str] | None, typer.Option(help="package.module:function that may be imported.")
    ] = None,
) -> None:
    """Write a point of a run in a format of others, and compare it with the eager model."""
    import torch

    from sartor.export import export

    frontier = Frontier.load(run)
    point = frontier.best(", ".join(budget) if budget else None)
    model = point.load_model(factories=factory or ())
    example = torch.zeros(1, *frontier.task["input_shape"])
    path = out or Path(f"{point.id}.{'onnx' if format == 'onnx' else 'pt2'}")
    report = export(model, example, path, format=format)
    verdict = "equal to the eager model" if report.verified else "not compared"
    _console.print(
        f"{report.path}: {report.size_bytes / 1e6:.3g} MB, {verdict}, largest difference "
        f"{report.max_abs_diff:.2e}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
