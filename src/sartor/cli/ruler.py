"""``sartor measure``: the ruler alone."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sartor.core import FamilyError, Target

__all__ = ["measure_command"]


def measure_command(
    models: Annotated[
        list[str], typer.Argument(help="timm names, package.module:function, or RUN/points/ID.")
    ],
    target: Annotated[
        list[str] | None, typer.Option(help="Several are shown side by side.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the target (CPU).")] = None,
    batch: Annotated[int | None, typer.Option(help="Inputs in one call.")] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="C,H,W; default: what the first timm model takes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure models in one or more targets, side by side in one run each."""
    import torch

    from sartor.measure import measure
    from sartor.nn import load_family, preferred_input

    targets = [Target.parse(t, threads=threads, batch=batch) for t in target or [None]]
    prefers = preferred_input(models) if input_shape is None else None
    shape = prefers.size if prefers else _shape(input_shape)
    family = load_family(models)
    example = torch.zeros(1, *shape)
    named = {member.name: member.model for member in family}
    found = {str(t): measure(named, t, example) for t in targets}
    if as_json:
        rows = {t: {name: m.to_dict() for name, m in row.items()} for t, row in found.items()}
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        Console().print(_table(found))


def _shape(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").split(","))
    except ValueError:
        raise FamilyError(
            f"The input shape {text!r} cannot be read; give --input-shape as C,H,W, for example "
            "3,224,224."
        ) from None


def _table(found: dict[str, Any]) -> Table:
    table = Table("model", "params", "GFLOPs", "MB")
    for target in found:
        table.add_column(f"ms ({target})", justify="right")
    first = next(iter(found.values()))
    for name, one in first.items():
        times = [
            f"{row[name].latency_ms:.3g} ± {row[name].latency_iqr_ms / 2:.2g}"
            for row in found.values()
        ]
        size = f"{one.size_bytes / 1e6:.3g}"
        table.add_row(name, f"{one.params:,}", f"{one.flops / 1e9:.3g}", size, *times)
    return table
