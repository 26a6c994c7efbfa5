import gc

import pytest

from sartor.core import TargetError
from sartor.measure import latency


class Clock:
    """Time that passes only inside calls, each of which takes its own number of milliseconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.seconds

    def task(self, name: str, *milliseconds: float):
        durations = iter(milliseconds[:-1])

        def run() -> None:
            self.log.append(name)
            self.seconds += next(durations, milliseconds[-1]) / 1e3

        return run


def test_rounds_are_interleaved_and_alternate_in_direction() -> None:
    clock = Clock()
    calls = {name: clock.task(name, 2.0) for name in "abc"}
    latency(calls, min_seconds=0, rounds=2, warmup=1, clock=clock)
    warm, timed = clock.log[:6], clock.log[6:]
    assert "".join(warm) == "aabbcc"  # one warm-up, one to find the number of repeats
    assert "".join(timed) == "abccba"


def test_median_and_quartiles() -> None:
    clock = Clock()
    call = clock.task("a", 50.0, 5.0, 4.0, 1.0, 2.0, 3.0, 9.0)  # two before the timings
    found = latency({"a": call}, min_seconds=0, rounds=5, warmup=1, clock=clock)["a"]
    assert found.median_ms == pytest.approx(3.0)
    assert found.iqr_ms == pytest.approx(2.0)
    assert (found.warmup, found.repeats) == (1, 5)


def test_short_calls_are_repeated_within_a_timing() -> None:
    clock = Clock()
    found = latency({"a": clock.task("a", 0.1)}, min_seconds=0, rounds=3, warmup=2, clock=clock)
    assert found["a"].median_ms == pytest.approx(0.1)
    assert len(clock.log) == 2 + 1 + 10 + 3 * 10


def test_rounds_go_on_for_the_time_given() -> None:
    clock = Clock()
    calls = {name: clock.task(name, 10.0) for name in "ab"}
    found = latency(calls, min_seconds=0.5, rounds=2, warmup=1, clock=clock)
    assert found["a"].repeats == found["b"].repeats == 50


def test_device_is_waited_for_before_and_after_each_timing() -> None:
    clock = Clock()
    log = clock.log
    latency(
        {"a": clock.task("a", 2.0)},
        min_seconds=0,
        rounds=2,
        warmup=1,
        clock=clock,
        synchronize=lambda: log.append("wait"),
    )
    assert log == ["a", *["wait", "a", "wait"] * 3]


def test_collector_rests_and_comes_back() -> None:
    seen: set[bool] = set()
    latency({"a": lambda: seen.add(gc.isenabled())}, min_seconds=0, rounds=2)
    assert seen == {False} and gc.isenabled()


@pytest.mark.parametrize("bad", [{"rounds": 1}, {"warmup": 0}, {"min_seconds": -1.0}])
def test_too_little_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(TargetError, match="rounds >= 2"):
        latency({"a": list}, **bad)
