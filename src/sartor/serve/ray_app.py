"""Ray Serve: the same application in several replicas, each with its own models and queue.

Ray itself moves objects between its own processes by pickle, on this cluster alone; nothing that a
client sends or a run holds is unpickled.
"""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sartor.core import DataError, Frontier
from sartor.core.packages import require
from sartor.serve.app import AppSettings, create_app
from sartor.serve.engine import Engine, EngineSettings

__all__ = ["RaySettings", "deployment", "serve_on_ray"]


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """Settings of the deployment.

    Attributes:
        host: address of the proxy.
        port: of the proxy.
        min_replicas: at least 1.
        max_replicas: at least ``min_replicas``; between them Ray scales by open requests.
        open_requests: that a replica should have; more make Ray add one.
        cpus: that Ray sets aside for a replica.
        token: of the admin actions. They reach one replica, so none exist with several.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    min_replicas: int = 1
    max_replicas: int = 2
    open_requests: float = 8.0
    cpus: float = 1.0
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise DataError(
                f"The replicas need 1 <= min <= max, got {self.min_replicas} and "
                f"{self.max_replicas}."
            )
        if self.token is not None and self.max_replicas > 1:
            raise DataError(
                "An admin action would reach one of several replicas; unset the token, or use one "
                "replica."
            )


def deployment(run: Path, settings: EngineSettings, ray_settings: RaySettings) -> Any:
    """Describe the application to Ray.

    Args:
        run: the run's folder, which every node can read.
        settings: of each replica's engine.
        ray_settings: of the deployment.

    Returns:
        What ``ray.serve.run`` takes.
    """
    serve = require("ray.serve")
    folder, token = str(run.resolve()), ray_settings.token
    shape = tuple(Frontier.load(run).task["input_shape"])

    def build() -> Any:  # runs in the replica
        return create_app(lambda: Engine(folder, settings), shape, AppSettings(token=token))

    class Replica:
        pass

    scaling = {
        "min_replicas": ray_settings.min_replicas,
        "max_replicas": ray_settings.max_replicas,
        "target_ongoing_requests": ray_settings.open_requests,
    }
    return serve.deployment(
        name="sartor",
        autoscaling_config=scaling,
        max_ongoing_requests=1024,
        ray_actor_options={"num_cpus": ray_settings.cpus},
        graceful_shutdown_timeout_s=20,
    )(serve.ingress(build)(Replica)).bind()


def serve_on_ray(
    run: Path, settings: EngineSettings, ray_settings: RaySettings, *, wait: bool = False
) -> None:
    """Start the deployment on the running Ray cluster, or on a local one.

    Args:
        run: the run's folder.
        settings: of each replica's engine.
        ray_settings: of the deployment.
        wait: return only after SIGTERM or SIGINT, when all was shut down.
    """
    ray, serve = require("ray"), require("ray.serve")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": ray_settings.host, "port": ray_settings.port})
    serve.run(deployment(run, settings, ray_settings), name="sartor")
    if wait:
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
        serve.shutdown()
        ray.shutdown()
