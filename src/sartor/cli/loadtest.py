"""``sartor loadtest``: open-loop load on a service."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["loadtest_command"]


def loadtest_command(
    url: Annotated[str, typer.Argument(help="http://host:port of a service.")],
    profile: Annotated[str, typer.Option(help="poisson, ramp or burst.")] = "poisson",
    rate: Annotated[float, typer.Option(help="Requests a second at the highest.")] = 50.0,
    seconds: Annotated[float, typer.Option(help="Length, at most 600.")] = 10.0,
    images: Annotated[int, typer.Option(help="In each request.")] = 1,
    slo_ms: Annotated[float | None, typer.Option(help="Objective; default: the service's.")] = None,
    seed: Annotated[int, typer.Option(help="Of arrivals and inputs.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Writes OUT.json and OUT.svg.")] = None,
    anywhere: Annotated[
        bool, typer.Option("--anywhere", help="Allow another machine; test your own only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send requests at their times, whatever the service does, and count what became of them."""
    from sartor.core.files import write_json
    from sartor.serve.client import Client
    from sartor.serve.loadtest import LoadSettings, draw_load, load_test

    settings = LoadSettings(
        profile=profile, rate=rate, seconds=seconds, images=images, slo_ms=slo_ms, seed=seed
    )
    report, outcomes = asyncio.run(load_test(Client(url, anywhere=anywhere), settings))
    if out:
        write_json(
            out.with_suffix(".json"), {"settings": vars(settings), "report": report.to_dict()}
        )
        draw_load(outcomes, report.slo_ms, out.with_suffix(".svg"))
    if as_json:
        sys.stdout.write(json.dumps(report.to_dict()) + "\n")
        return
    table = Table("what", "value", title=f"{profile}, {rate:g} requests/s, {seconds:g} s")
    for name, value in report.to_dict().items():
        if name != "points":
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.add_row(name.replace("_", " "), "none" if value is None else shown)
    for point, count in report.points.items():
        table.add_row(f"answered by {point}", str(count))
    Console().print(table)
