"""The profile: how long every point takes here, for every batch size that the service may use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sartor.measure import latency
from sartor.serve.backend import Array, Backend
from sartor.serve.offer import Offer

__all__ = ["batch_sizes", "profile"]

_log = logging.getLogger("sartor.serve")


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Powers of two up to ``largest``, and ``largest`` itself.

    Example:
        >>> batch_sizes(12)
        (1, 2, 4, 8, 12)
    """
    sizes = [1 << bit for bit in range(largest.bit_length()) if 1 << bit < largest]
    return (*sizes, largest)


def profile(
    backend: Backend,
    shape: Sequence[int],
    *,
    slo_ms: float,
    max_batch: int,
    min_seconds: float = 0.02,
    rounds: int = 7,
) -> tuple[list[Offer], dict[str, str]]:
    """Measure every point of a backend, several in turn, smallest batches first.

    A point's larger batches are left out once one call takes longer than the objective.

    Args:
        backend: what will serve.
        shape: of one input.
        slo_ms: the objective, above 0.
        max_batch: largest batch, at least 1.
        min_seconds: of measuring, for each point and batch size.
        rounds: least number of timings of each.

    Returns:
        The offers, and for every point that cannot run the reason.
    """
    example = np.random.default_rng(0).standard_normal((max_batch, *shape)).astype(np.float32)
    withdrawn: dict[str, str] = {}
    times: dict[str, list[tuple[int, float]]] = {}
    for part in _parts(list(backend.accuracies), backend.keep):
        alive = [id for id in part if _runs(backend, id, example[:1], withdrawn)]
        for size in batch_sizes(max_batch):
            asked = [id for id in alive if id not in times or times[id][-1][1] <= slo_ms]
            calls = {id: _call(backend, id, example[:size]) for id in asked}
            found = latency(calls, min_seconds=min_seconds, rounds=rounds) if calls else {}
            for id, one in found.items():
                times.setdefault(id, []).append((size, one.median_ms))
    offers = [
        Offer(
            id=id,
            accuracy=backend.accuracies[id],
            times=tuple(measured),
            joins=_joins(backend, id, example),
        )
        for id, measured in times.items()
    ]
    return offers, withdrawn


def _call(backend: Backend, id: str, inputs: Array) -> Callable[[], Array]:
    return lambda: backend.run(id, inputs)


def _parts(ids: list[str], keep: int) -> Iterator[list[str]]:
    for start in range(0, len(ids), keep):
        yield ids[start : start + keep]


def _runs(backend: Backend, id: str, inputs: Array, withdrawn: dict[str, str]) -> bool:
    """Try a point once; one that fails is withdrawn with its reason, and the rest serve on."""
    try:
        outputs = backend.run(id, inputs)
        reason = "" if np.isfinite(outputs).all() else "it gives outputs that are not finite"
    except Exception as error:  # whatever a damaged file makes a runtime raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if reason:
        withdrawn[id] = reason
        _log.warning("The point %s is withdrawn: %s", id, reason)
    return not reason


def _joins(backend: Backend, id: str, example: Array) -> bool:
    """Whether an input's outputs stay the same beside a larger input, up to rounding."""
    alone = backend.run(id, example[:1])
    beside = backend.run(id, np.concatenate([example[:1], 4 * example[-1:]]))
    return bool(np.abs(alone - beside[:1]).max() <= 1e-5 * max(1.0, np.abs(alone).max()))
