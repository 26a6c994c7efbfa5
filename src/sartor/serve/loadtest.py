"""Load tests: open-loop requests to a service, and what became of each of them."""

from __future__ import annotations

import asyncio
import gc
import io
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sartor.core import DataError
from sartor.core.files import atomic_path
from sartor.core.packages import require
from sartor.serve.arrivals import arrivals
from sartor.serve.client import Client
from sartor.serve.decode import NPY_TYPE

__all__ = ["LoadReport", "LoadSettings", "Outcome", "draw_load", "summarise"]


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """Settings of a load test.

    Attributes:
        profile: ``poisson``, ``ramp`` or ``burst``.
        rate: requests a second at the highest.
        seconds: length, at most 600.
        images: in each request, at least 1.
        slo_ms: objective that counts; ``None`` takes the service's.
        seed: of arrivals and inputs.
        max_open: requests that may wait at the same time; more are counted as not sent.
        timeout_s: after which a request counts as lost.
    """

    profile: str = "poisson"
    rate: float = 50.0
    seconds: float = 10.0
    images: int = 1
    slo_ms: float | None = None
    seed: int = 0
    max_open: int = 2000
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.images <= 4096 or not 1 <= self.max_open <= 10_000:
            raise DataError(
                f"images must lie in 1..4096 and max_open in 1..10000, got {self.images} and "
                f"{self.max_open}."
            )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one request.

    Attributes:
        at_s: when it was due, from the start.
        ms: from when it was due to its response, so that a late sender hides nothing.
        status: HTTP status; 0 lost (no response), -1 not sent.
        reason: of a 503, or of a loss.
        accuracy: of the point that answered.
        point: that answered.
    """

    at_s: float
    ms: float
    status: int
    reason: str = ""
    accuracy: float = 0.0
    point: str = ""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Numbers over all requests of a load test; ``None`` where nothing was answered.

    Attributes:
        sent: requests that were due.
        answered: with a result.
        in_time: with a result within the objective.
        refused: 503 on arrival.
        dropped: 503 after they were admitted.
        errors: other responses.
        lost: no response, or not sent.
        attainment: in_time over all that were admitted (answered, dropped and lost).
        goodput: results in time, per second.
        images_per_s: the same, in images per second.
        accuracy: mean over the results, of the points that gave them.
        p50_ms: of the results; likewise ``p95_ms``, ``p99_ms`` and ``max_ms``.
    """

    sent: int
    answered: int
    in_time: int
    refused: int
    dropped: int
    errors: int
    lost: int
    slo_ms: float
    seconds: float
    goodput: float
    images_per_s: float
    attainment: float | None
    accuracy: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    points: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)


async def load_test(client: Client, settings: LoadSettings) -> tuple[LoadReport, list[Outcome]]:
    """Send requests at their times, and wait for every response.

    Args:
        client: of the service.
        settings: of the test.

    Raises:
        DataError: the settings are out of bounds, or there is no such service.
    """
    times = arrivals(settings.profile, settings.rate, settings.seconds, seed=settings.seed)
    try:
        config = (await client.send("GET", "/config")).json()
        shape, slo_ms = config["input_shape"], settings.slo_ms or config["slo_ms"]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"http://{client.host}:{client.port} does not answer like sartor serve ({error!r}); "
            "start it first."
        ) from error
    path, bodies = _bodies(settings, shape)
    outcomes: list[Outcome] = []
    open_now = 0
    start = time.perf_counter() + 0.1

    async def one(number: int, due: float) -> None:
        nonlocal open_now
        open_now += 1
        try:
            outcomes.append(await _send(client, path, bodies[number % len(bodies)], start, due))
        finally:
            open_now -= 1

    tasks = []
    gc.collect()
    gc.freeze()  # the collector's pauses would count as the service's
    for number, due in enumerate(times):
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        if open_now >= settings.max_open:
            outcomes.append(Outcome(at_s=due, ms=0.0, status=-1, reason="too many open"))
            continue
        tasks.append(asyncio.create_task(asyncio.wait_for(one(number, due), settings.timeout_s)))
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, asyncio.TimeoutError):
            outcomes.append(Outcome(at_s=0.0, ms=0.0, status=0, reason="timeout"))
        elif isinstance(result, BaseException):
            raise result
    gc.unfreeze()
    client.close()
    return summarise(outcomes, slo_ms, settings), outcomes


def _bodies(settings: LoadSettings, shape: list[int]) -> tuple[str, list[bytes]]:
    generator = np.random.default_rng(settings.seed)
    bodies = []
    for _ in range(8):
        buffer = io.BytesIO()
        inputs = generator.standard_normal((settings.images, *shape)).astype(np.float32)
        np.lib.format.write_array(buffer, inputs, allow_pickle=False)
        bodies.append(buffer.getvalue())
    return ("/predict" if settings.images == 1 else "/predict/batch"), bodies


async def _send(client: Client, path: str, body: bytes, start: float, due: float) -> Outcome:
    kinds = {"content-type": NPY_TYPE, "accept": NPY_TYPE}
    try:
        reply = await client.send("POST", path, body, kinds)
    except (OSError, EOFError) as error:
        return Outcome(at_s=due, ms=0.0, status=0, reason=type(error).__name__)
    ms = (time.perf_counter() - start - due) * 1e3
    if reply.status == 200:
        accuracy, point = float(reply.headers["x-accuracy"]), reply.headers["x-point"]
        return Outcome(at_s=due, ms=ms, status=200, accuracy=accuracy, point=point)
    reason = reply.json().get("reason", "") if reply.body else ""
    return Outcome(at_s=due, ms=ms, status=reply.status, reason=reason)


def summarise(outcomes: list[Outcome], slo_ms: float, settings: LoadSettings) -> LoadReport:
    """Count outcomes.

    Args:
        outcomes: of all requests.
        slo_ms: the objective.
        settings: of the test.
    """
    good = [one for one in outcomes if one.status == 200]
    in_time = sum(one.ms <= slo_ms for one in good)
    refused = sum(one.status == 503 and one.reason in ("full", "") for one in outcomes)
    dropped = sum(one.status == 503 for one in outcomes) - refused
    lost = sum(one.status <= 0 for one in outcomes)
    admitted = len(good) + dropped + lost
    times = [one.ms for one in good]
    p50, p95, p99 = np.percentile(times, [50, 95, 99]).tolist() if times else (None,) * 3
    return LoadReport(
        sent=len(outcomes),
        answered=len(good),
        in_time=in_time,
        refused=refused,
        dropped=dropped,
        errors=len(outcomes) - len(good) - refused - dropped - lost,
        lost=lost,
        slo_ms=slo_ms,
        seconds=settings.seconds,
        goodput=in_time / settings.seconds,
        images_per_s=in_time * settings.images / settings.seconds,
        attainment=in_time / admitted if admitted else None,
        accuracy=float(np.mean([one.accuracy for one in good])) if good else None,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=max(times, default=None),
        points=dict(Counter(one.point for one in good).most_common()),
    )


def draw_load(outcomes: list[Outcome], slo_ms: float, path: Path) -> None:
    """Draw latency and accuracy of every request over time.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure")
    figure = figures.Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    good = [one for one in outcomes if one.status == 200]
    bad = [one for one in outcomes if one.status != 200]
    upper.plot([o.at_s for o in good], [o.ms for o in good], ".", ms=3, label="answered")
    upper.plot([o.at_s for o in bad], [0.0] * len(bad), "rx", ms=4, label="no result")
    upper.axhline(slo_ms, color="gray", ls="--", label="objective")
    upper.set_ylabel("latency (ms)")
    upper.legend(loc="upper right")
    lower.plot([o.at_s for o in good], [o.accuracy for o in good], ".", ms=3, color="tab:green")
    lower.set_ylabel("accuracy of the point")
    lower.set_xlabel("seconds")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "svg")
