"""``sartor serve``: a run as a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sartor.core import DataError, Frontier
from sartor.core.packages import require

__all__ = ["serve_command"]

_console = Console(stderr=True, soft_wrap=True, highlight=False)


def serve_command(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    slo_ms: Annotated[float, typer.Option(help="Objective: milliseconds for one request.")] = 50.0,
    port: Annotated[int, typer.Option(help="Of the service.")] = 8000,
    host: Annotated[str, typer.Option(help="Address; others than loopback are reachable.")] = (
        "127.0.0.1"
    ),
    backend: Annotated[str, typer.Option(help="auto, onnx, eager or elastic.")] = "auto",
    max_batch: Annotated[int, typer.Option(help="Images joined in one call.")] = 64,
    max_images: Annotated[int, typer.Option(help="Images in one request.")] = 256,
    keep: Annotated[int | None, typer.Option(help="Models in memory; default: all.")] = None,
    pin: Annotated[str | None, typer.Option(help="Use this point only.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Holds the admin token; default: the variable SARTOR_ADMIN_TOKEN."),
    ] = None,
    factory: Annotated[
        list[str] | None, typer.Option(help="package.module:function that may be imported.")
    ] = None,
    drain_s: Annotated[float, typer.Option(help="Time for requests at the end.")] = 10.0,
    engine: Annotated[str, typer.Option(help="local, or ray: replicas on Ray Serve.")] = "local",
    replicas: Annotated[int, typer.Option(help="Of --engine ray; upper bound of scaling.")] = 2,
) -> None:
    """Serve a run: the frontier answers, and moves as the load changes."""
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require(package)
    from sartor.serve.admin import read_token
    from sartor.serve.engine import EngineSettings
    from sartor.serve.policy import PolicySettings

    settings = EngineSettings(
        policy=PolicySettings(slo_ms=slo_ms, max_batch=max_batch),
        backend=backend,
        keep=keep,
        factories=tuple(factory or ()),
        pin=pin,
    )
    token = read_token(token_file)
    frontier = Frontier.load(run)
    if engine == "ray":
        from sartor.serve.ray_app import RaySettings, serve_on_ray

        serve_on_ray(
            run,
            settings,
            RaySettings(host=host, port=port, max_replicas=replicas, token=token),
            wait=True,
        )
        return
    if engine != "local":
        raise DataError(f"The engine {engine!r} does not exist; use local or ray.")
    from sartor.serve.app import AppSettings, create_app
    from sartor.serve.engine import Engine
    from sartor.serve.server import ServerSettings, is_loopback, make_server

    served = ServerSettings(host=host, port=port, drain_s=drain_s)
    app = create_app(
        lambda: Engine(run, settings),
        tuple(frontier.task["input_shape"]),
        AppSettings(token=token, max_images=max_images, drain_s=drain_s),
    )
    reach = "this machine only" if is_loopback(host) else "reachable from outside, without TLS"
    admin = "with admin actions" if token else "without admin actions (no token)"
    _console.print(
        f"Measuring {len(frontier)} points, then http://{host}:{port} ({reach}, {admin})"
    )
    make_server(app, served).run()
