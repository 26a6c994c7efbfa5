import functools

import pytest

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.scalenet import judge, losses, run
from sartor.reproduce.scalenet_training import (
    BASE,
    COPIES,
    CYCLIC,
    FULL,
    LONGER,
    PLAIN,
    SCRATCH,
    SHORT,
    Schedule,
    Trained,
    train_all,
)
from sartor.testing import EvidenceContract


def trained(accuracy: float, *, params: int = 100, flops: int = 10, before: float = 0.5) -> Trained:
    return Trained(
        epochs="1", params=params, flops=flops, before=before, accuracy=accuracy, seconds=1.0
    )


def result(**more: Trained) -> dict[str, Trained]:
    made = {
        BASE: trained(0.6),
        LONGER: trained(0.7),
        CYCLIC: trained(0.7, params=105, flops=20),
        PLAIN: trained(0.7, flops=20),
        COPIES: trained(0.7, params=200, flops=20),
        SCRATCH: trained(0.7, params=200, flops=20),
        SHORT: trained(0.3, params=200, flops=20),
    }
    return {**made, **more}


def test_it_is_a_third_of_the_epochs() -> None:
    assert 3 * FULL.short == FULL.long


def test_equal_controls_are_no_gain_and_are_told() -> None:
    results = [result(), result()]
    checks = judge(results)
    assert all(check.passed for check in checks if check.decides)
    lost = [check.asked for check in checks if not check.passed]
    assert [asked for asked in lost if "trained on" in asked or "without adapters" in asked] == lost
    (told,) = losses(results)
    assert "2.00 times the operations" in told


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({CYCLIC: trained(0.7, params=107)}, "parameters of ScaleNet against the base"),
        ({CYCLIC: trained(0.68, params=105)}, "from scratch, long"),
        ({SHORT: trained(0.51, params=200)}, "from scratch, short"),
        ({CYCLIC: trained(0.7, params=105, before=0.39)}, "before its training"),
        ({SCRATCH: trained(0.7, params=170)}, "against twice the depth"),
    ],
)
def test_each_rule_can_fail(changed: dict, asked: str) -> None:
    broken = [c.asked for c in judge([result(**changed)]) if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_before_is_that_of_the_worst_seed() -> None:
    results = [result(), result(**{CYCLIC: trained(0.7, params=105, before=0.2)})]
    assert [c.measured for c in judge(results) if "lowest seed" in c.asked] == [0.2]


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_the_claim_holds_and_the_parameters_are_the_card_s(self) -> None:
        made = quick_run()
        assert made.passed, [c.asked for c in made.checks if not c.passed]
        (rows,) = made.tables.values()
        params = [row["parameters"] for row in rows]
        assert params == [22_522, 22_522, 23_842, 23_842, 22_522, 44_194, 44_194, 44_194]
        assert len(made.checks) == 8

    def test_a_seed_gives_the_same_again(self) -> None:
        schedule = Schedule(long=1, short=1, noise=0.2)
        first, second = (train_all(0, schedule) for _ in range(2))
        assert {n: t.accuracy for n, t in first.items()} == {
            n: t.accuracy for n, t in second.items()
        }
