"""Metrics: counters for Prometheus, and a short memory for the live page."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from sartor.core.packages import require
from sartor.serve.engine import Engine
from sartor.serve.ticket import Answer

__all__ = ["Metrics"]

_WINDOW_S = 10.0
_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """Counts what a service answered; each service has a registry of its own.

    Args:
        engine: whose state is shown.
        clock: returns seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        prometheus = require("prometheus_client")
        self._engine, self._clock, self._prometheus = engine, clock, prometheus
        self._recent: deque[tuple[float, float, float, int]] = deque(maxlen=20_000)
        self.registry = prometheus.CollectorRegistry()
        where: dict[str, Any] = {"registry": self.registry}
        self._requests = prometheus.Counter(
            "sartor_requests", "Requests, by outcome.", ["outcome"], **where
        )
        self._images = prometheus.Counter(
            "sartor_images", "Images answered, by point.", ["point"], **where
        )
        self._latency = prometheus.Histogram(
            "sartor_latency_ms",
            "From arrival to answer.",
            buckets=_BUCKETS_MS,
            **where,
        )
        self._batch = prometheus.Histogram(
            "sartor_batch_images",
            "Images in a request's call.",
            buckets=[1 << bit for bit in range(11)],
            **where,
        )
        for name, text, read in (
            ("sartor_queue_requests", "Requests that wait.", lambda: engine.batcher.queued),
            ("sartor_queue_age_ms", "Age of the oldest.", lambda: engine.batcher.oldest_ms),
            ("sartor_switches", "Changes of the point.", lambda: engine.controller.switches),
            ("sartor_accuracy", "Of the point in use.", self._accuracy),
            ("sartor_withdrawn", "Points withdrawn.", lambda: len(engine.controller.withdrawn)),
            ("sartor_memory_bytes", "Resident memory of the models.", self._memory),
        ):
            prometheus.Gauge(name, text, **where).set_function(read)

    def answered(self, answer: Answer, ms: float) -> None:
        """Count a result that took ``ms`` milliseconds from arrival."""
        images = len(answer.outputs)
        self._requests.labels("ok").inc()
        self._images.labels(answer.point).inc(images)
        self._latency.observe(ms)
        self._batch.observe(answer.batch)
        self._recent.append((self._clock(), ms, answer.accuracy, images))

    def refused(self, outcome: str) -> None:
        """Count a request without result: a status, or the reason of a 503."""
        self._requests.labels(outcome).inc()
        if outcome in ("full", "late", "failed", "closing"):
            self._recent.append((self._clock(), float("nan"), 0.0, 0))

    def text(self) -> bytes:
        """The exposition that Prometheus reads."""
        exposition: bytes = self._prometheus.generate_latest(self.registry)
        return exposition

    def recent(self) -> dict[str, Any]:
        """JSON-ready numbers of the last seconds, for the live page."""
        since = self._clock() - 2.0
        while self._recent and self._recent[0][0] < self._clock() - _WINDOW_S:
            self._recent.popleft()
        rows = [row for row in self._recent if row[0] >= since]
        good = [row for row in rows if row[3]]
        times = [row[1] for row in good]
        images = sum(row[3] for row in good)
        p50, p95, p99 = np.percentile(times, [50, 95, 99]).tolist() if times else (None,) * 3
        accuracy = sum(row[2] * row[3] for row in good) / images if images else None
        return {
            "requests_per_s": len(rows) / 2.0,
            "images_per_s": images / 2.0,
            "refused_per_s": (len(rows) - len(good)) / 2.0,
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "delivered_accuracy": accuracy,
            "point": self._engine.controller.point,
            "pin": self._engine.controller.pin,
            "accuracy": self._accuracy(),
            "slo_ms": self._engine.settings.policy.slo_ms,
            "queued": self._engine.batcher.queued,
        }

    def _accuracy(self) -> float:
        controller = self._engine.controller
        offer = controller.offers.get(controller.pin or controller.point)
        return offer.accuracy if offer else 0.0

    def _memory(self) -> int:
        return sum(self._engine.loaded.backend.memory().values())
