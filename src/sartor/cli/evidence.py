"""``sartor methods`` and ``sartor reproduce``: what there is, and whether it holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sartor.cli.progress import TerminalProgress
from sartor.core import RecipeError
from sartor.core.registry import attribute, find, methods
from sartor.fit.progress import telling

__all__ = ["methods_command", "reproduce_command"]


def methods_command(
    pattern: Annotated[str, typer.Argument(help="Wildcard over slugs and roles.")] = "*",
) -> None:
    """List the methods: what each is, where it comes from, how it is used."""
    table = Table("slug", "role", "summary", "source", "in fit", "reproduce")
    for row in methods(pattern):
        marks = ["yes" if present else "" for present in (row.move, row.reproduce)]
        table.add_row(row.slug, row.role, row.summary, row.source, *marks)
    Console().print(table)


def reproduce_command(
    slug: Annotated[str, typer.Argument(help="As in `sartor methods`.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, shorter: a smoke test.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write evidence.json and the pictures into this folder.")
    ] = None,
) -> None:
    """Run a paper's claim at laptop scale against its baseline; exit code 3 if it does not hold."""
    method = find(slug)
    if not method.reproduce:
        raise RecipeError(
            f"{slug!r} is no published system of the line; see `sartor methods` for those that are."
        )
    run = attribute(f"{method.reproduce}:run")
    with TerminalProgress() as progress, telling(progress):
        evidence = run(quick=quick)
    written = evidence.save(out) if out else []
    if as_json:
        sys.stdout.write(json.dumps(evidence.to_dict()) + "\n")
    else:
        console = Console()
        evidence.show(console)
        for path in written:
            console.print(f"wrote {path}", highlight=False, markup=False)
    if not evidence.passed:
        raise typer.Exit(3)
