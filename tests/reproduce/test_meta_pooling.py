import functools

import pytest

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.meta_pooling import judge, losses, run
from sartor.reproduce.meta_pooling_training import META, NEUTRAL, PLAIN, Trained
from sartor.testing import EvidenceContract

LIMITS = (2, 4, 6)


def trained(accuracy: float, window: int = 1, seconds: float = 1.0) -> Trained:
    choice = (f"max{window}",) if window > 1 else ()
    return Trained(accuracy=accuracy, params=1, choice=choice, window=window, seconds=seconds)


def result(**more: Trained) -> dict[tuple[str, int], Trained]:
    made = {(name, limit): trained(0.5) for limit in LIMITS for name in (PLAIN, NEUTRAL)}
    made |= {(META, limit): trained(1.0, limit + 1, seconds=3.0) for limit in LIMITS}
    made[PLAIN, 2] = made[NEUTRAL, 2] = trained(1.0)
    return {**made, **{(name.split()[0], int(name.split()[1])): t for name, t in more.items()}}


def test_the_rules_hold_for_the_card_s_numbers() -> None:
    checks = judge([result(), result()])
    assert all(check.passed for check in checks)
    (cost,) = losses([result()])
    assert "3.0 times the CPU seconds" in cost


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({"plain 2": trained(0.9)}, "distance 2, plain"),
        ({"plain 6": trained(0.7)}, "distance 6, plain"),
        ({"meta-pooling 4": trained(0.9, 5)}, "distance 4, meta-pooling"),
        ({"meta-pooling 6": trained(1.0, 3)}, "smallest growth"),
    ],
)
def test_each_rule_can_fail(changed: dict[str, Trained], asked: str) -> None:
    broken = [c.asked for c in judge([result(**changed)]) if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_a_control_that_sees_as_far_fails() -> None:
    seeing = {**result(), (NEUTRAL, 6): trained(0.99)}
    broken = [c.asked for c in judge([seeing]) if c.decides and not c.passed]
    assert len(broken) == 1 and "control" in broken[0]


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_the_search_ends_with_a_choice(self) -> None:
        (rows,) = quick_run().tables.values()
        assert [bool(row["kept"]) for row in rows] == [False, True, True]
