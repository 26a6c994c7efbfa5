"""The engine: a run, its backend and its batcher, behind one awaitable call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sartor.core import ArtifactError, DataError, Frontier
from sartor.core.errors import nearest
from sartor.serve.backend import Array, Backend, eager_points, onnx_points
from sartor.serve.batcher import Batcher
from sartor.serve.controller import Controller
from sartor.serve.elastic import open_elastic
from sartor.serve.errors import OverloadError
from sartor.serve.offer import Offer
from sartor.serve.policy import PolicySettings
from sartor.serve.profile import profile
from sartor.serve.ticket import Answer

__all__ = ["BACKENDS", "Engine", "EngineSettings", "Loaded", "load_run"]

BACKENDS = ("auto", "onnx", "eager", "elastic")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of a service.

    Attributes:
        policy: objective and habits of the controller.
        backend: ``onnx`` or ``eager`` (one model for each point), ``elastic`` (one stitched net),
            or ``auto``: onnx where the run has ONNX files, else eager.
        keep: models held in memory at the same time; ``None`` holds all.
        measure_seconds: of measuring at start, for each point and batch size.
        factories: ``package.module:function`` names that recipes may import.
        pin: id of the only point to use from the start; ``None`` leaves the choice to the policy.
    """

    policy: PolicySettings
    backend: str = "auto"
    keep: int | None = None
    measure_seconds: float = 0.02
    factories: tuple[str, ...] = ()
    pin: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise DataError(
                f"The backend {self.backend!r} does not exist; {nearest(self.backend, BACKENDS)}"
            )
        if self.keep is not None and self.keep < 1:
            raise DataError(f"keep must be at least 1 model, got {self.keep}.")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A run that is ready to serve.

    Attributes:
        folder: of the run.
        frontier: of the run.
        backend: computes outputs.
        offers: points that run, measured here.
        withdrawn: points that do not, with the reason.
        note: why another backend serves than the one that was asked for; empty if none does.
    """

    folder: Path
    frontier: Frontier
    backend: Backend
    offers: tuple[Offer, ...]
    withdrawn: dict[str, str]
    note: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(self.frontier.task["input_shape"])


def load_run(folder: Path, settings: EngineSettings) -> Loaded:
    """Read a run, open its backend and measure every point.

    Raises:
        ArtifactError: the run cannot be read, or none of its points runs.
    """
    frontier = Frontier.load(folder)
    folder = folder if folder.is_dir() else folder.parent
    backend, note = _open_backend(folder, frontier, settings)
    offers, withdrawn = profile(
        backend,
        frontier.task["input_shape"],
        slo_ms=settings.policy.slo_ms,
        max_batch=settings.policy.max_batch,
        min_seconds=settings.measure_seconds,
    )
    if not offers:
        first, why = next(iter(withdrawn.items()), ("(none)", "the frontier has no point"))
        raise ArtifactError(f"No point of {folder} runs; {first}: {why}")
    return Loaded(
        folder=folder,
        frontier=frontier,
        backend=backend,
        offers=tuple(offers),
        withdrawn=withdrawn,
        note=note,
    )


def _open_backend(
    folder: Path, frontier: Frontier, settings: EngineSettings
) -> tuple[Backend, str]:
    kind, note = settings.backend, ""
    points, target = frontier.points, frontier.target
    if kind == "elastic":
        try:
            return open_elastic(folder, frontier, factories=settings.factories), ""
        except ArtifactError as error:
            kind, note = "auto", f"The elastic backend is not available: {error}"
    if kind == "auto":
        deployed = all("model.onnx" in p.files for p in points) and target.device == "cpu"
        kind = "onnx" if deployed else "eager"
    if kind == "onnx":
        return onnx_points(points, target, keep=settings.keep), note
    return eager_points(points, target, keep=settings.keep, factories=settings.factories), note


class Engine:
    """Serves a run inside one event loop; calls of the backend have a thread of their own.

    Args:
        folder: of the run.
        settings: of the service.
        load: reads a run; takes folder and settings.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: EngineSettings,
        *,
        load: Callable[[Path, EngineSettings], Loaded] = load_run,
    ) -> None:
        self.settings = settings
        self._folder, self._load = Path(folder), load
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sartor-backend")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="sartor-load")
        self._reloading = asyncio.Lock()
        self.closing = False
        self.loaded: Loaded
        self.controller: Controller
        self.batcher: Batcher

    async def start(self) -> None:
        """Load and measure the run, and take requests.

        Raises:
            SartorError: the run cannot be served.
        """
        self.loaded = await self._load_run(self._folder)
        self.controller = Controller(
            self.loaded.offers, self.settings.policy, self.loaded.withdrawn
        )
        self.controller.pin_to(self.settings.pin)
        self.batcher = Batcher(self._execute, self.controller)

    async def submit(
        self, inputs: Array, *, deadline_ms: float | None = None, floor: float = 0.0
    ) -> Answer:
        """See :meth:`Batcher.submit`; inputs (n, *shape) float32."""
        if self.closing:
            raise OverloadError("The service is closing; try another replica.", reason="closing")
        return await self.batcher.submit(inputs, deadline_ms=deadline_ms, floor=floor)

    async def reload(self, folder: str | Path) -> Loaded:
        """Serve another run from now on; requests go on being answered meanwhile.

        Raises:
            SartorError: the new run cannot be served, or takes other inputs or gives other classes;
                the present one stays.
        """
        async with self._reloading:
            new = await self._load_run(Path(folder))
            for what, now in (("input_shape", self.loaded), ("classes", self.loaded)):
                before, after = now.frontier.task.get(what), new.frontier.task.get(what)
                if before != after:
                    raise DataError(
                        f"The run {folder} has {what} {after} and this service {before}; start "
                        "another service for it."
                    )
            self.loaded = new  # no await from here: the batcher sees both changes or none
            self.controller.replace(new.offers, new.withdrawn)
            return new

    async def close(self, timeout_s: float = 10.0) -> None:
        """Answer what waits, at most for ``timeout_s``, and end."""
        self.closing = True
        if hasattr(self, "batcher"):
            await self.batcher.close(timeout_s)
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _execute(self, point: str, inputs: Array) -> Awaitable[Array]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._worker, self.loaded.backend.run, point, inputs)

    def _load_run(self, folder: Path) -> Awaitable[Loaded]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._loader, self._load, folder, self.settings)
