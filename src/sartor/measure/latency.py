"""Latency: several calls timed in turn, so that what disturbs one disturbs all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

from sartor.core.errors import TargetError
from sartor.core.measurement import Latency
from sartor.runtime.quiet import collector_paused

__all__ = ["latency"]

#: shortest stretch of work, in seconds, between two readings of the clock
_SHORTEST = 1e-3


def latency(
    calls: Mapping[str, Callable[[], object]],
    *,
    min_seconds: float = 0.2,
    rounds: int = 15,
    warmup: int = 3,
    synchronize: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Time calls in interleaved rounds.

    Each round times every call once, forwards in even rounds and backwards in odd ones. A call
    shorter than a millisecond is repeated within its timing and the mean is taken. The garbage
    collector is paused.

    Args:
        calls: what to time; each call handles one batch.
        min_seconds: rounds go on until they have lasted this long per call, at least 0.
        rounds: at least this many timings of each call, 2 or more.
        warmup: untimed runs of each call before, at least 1.
        synchronize: waits for the device, before and after each timing.
        clock: returns seconds.

    Returns:
        Median and interquartile range over the timings, in milliseconds for one call.

    Raises:
        TargetError: ``rounds``, ``warmup`` or ``min_seconds`` is too small.

    Example:
        >>> sorted(latency({"a": lambda: sum(range(99)), "b": list}, min_seconds=0))
        ['a', 'b']
    """
    if rounds < 2 or warmup < 1 or min_seconds < 0:
        raise TargetError(
            "A latency takes rounds >= 2, warmup >= 1 and min_seconds >= 0, got rounds="
            f"{rounds}, warmup={warmup} and min_seconds={min_seconds}."
        )
    wait = synchronize or (lambda: None)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with collector_paused():
        repeats = {name: _repeats(call, warmup, wait, clock) for name, call in calls.items()}
        deadline = clock() + min_seconds * len(calls)
        done = 0
        while done < rounds or clock() < deadline:
            for name in list(calls) if done % 2 == 0 else reversed(list(calls)):
                samples[name].append(_timed(calls[name], repeats[name], wait, clock))
            done += 1
    return {name: _summary(values, warmup) for name, values in samples.items()}


def _timed(
    call: Callable[[], object],
    repeats: int,
    wait: Callable[[], None],
    clock: Callable[[], float],
) -> float:
    """Return seconds of one call, the mean of ``repeats`` in a row."""
    wait()
    start = clock()
    for _ in range(repeats):
        call()
    wait()
    return (clock() - start) / repeats


def _repeats(
    call: Callable[[], object], warmup: int, wait: Callable[[], None], clock: Callable[[], float]
) -> int:
    """Warm the call up, and return how often it has to run to fill the shortest timing."""
    for _ in range(warmup):
        call()
    seconds = _timed(call, 1, wait, clock)
    if seconds < _SHORTEST:  # a single short run is mostly noise
        seconds = _timed(call, 10, wait, clock)
    return max(1, min(10_000, math.ceil(_SHORTEST / max(seconds, 1e-9))))


def _summary(seconds: list[float], warmup: int) -> Latency:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Latency(
        median_ms=median * 1e3, iqr_ms=(high - low) * 1e3, warmup=warmup, repeats=len(seconds)
    )
