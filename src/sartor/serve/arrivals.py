"""Arrivals: when the requests of a load test are sent, whatever the service does."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sartor.core import DataError
from sartor.core.errors import nearest

__all__ = ["PROFILES", "arrivals"]

PROFILES = ("poisson", "ramp", "burst")
_MAX_COUNT = 200_000


def arrivals(profile: str, rate: float, seconds: float, *, seed: int = 0) -> list[float]:
    """Draw times of arrival.

    Args:
        profile: ``poisson``: independent arrivals at ``rate``; ``ramp``: the same, from 0 up to
            ``rate``; ``burst``: ``rate`` for the third quarter of every four seconds, a fourth of
            it else.
        rate: requests a second at the highest, above 0.
        seconds: length, above 0 and at most 600.
        seed: of the draws.

    Returns:
        Rising seconds from the start, at most 200,000.

    Raises:
        DataError: an argument is out of range.

    Example:
        >>> len(arrivals("poisson", 100, 10)) in range(900, 1100)
        True
    """
    if profile not in PROFILES:
        raise DataError(f"The profile {profile!r} does not exist; {nearest(profile, PROFILES)}")
    if not 0 < seconds <= 600 or not rate > 0 or rate * seconds > _MAX_COUNT:
        raise DataError(
            f"A load test of {rate:g} requests a second for {seconds:g} s is out of bounds; take "
            f"0 < seconds <= 600, a rate above 0, and at most {_MAX_COUNT} requests."
        )
    share: dict[str, Callable[[float], float]] = {
        "poisson": lambda t: 1.0,
        "ramp": lambda t: t / seconds,
        "burst": lambda t: 1.0 if 2.0 <= math.fmod(t, 4.0) < 3.0 else 0.25,
    }
    generator = np.random.default_rng(seed)
    times: list[float] = []
    now = 0.0
    while len(times) < _MAX_COUNT:
        now += generator.exponential(1 / rate)
        if now >= seconds:
            break
        if generator.random() < share[profile](now):  # thinning
            times.append(now)
    return times
