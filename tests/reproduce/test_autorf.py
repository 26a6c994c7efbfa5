import functools
from dataclasses import replace

import pytest

from sartor.reproduce.autorf import judge, judge_digits, losses, run
from sartor.reproduce.autorf_digits import CELL, CELL_BY_ASAM, GATED, PLAIN, RANDOM_CELL
from sartor.reproduce.autorf_training import (
    GATE,
    NOISE,
    PUBLISHED,
    RANDOM,
    SEARCHED,
    Trained,
    random_genotype,
)
from sartor.reproduce.evidence import Evidence
from sartor.testing import EvidenceContract


def trained(accuracy: float, *windows: int, seconds: float = 1.0) -> Trained:
    return Trained(accuracy=accuracy, params=1, windows=windows, seconds=seconds)


def result(**more: Trained) -> dict[str, Trained]:
    made = {
        GATE: trained(0.5),
        NOISE: trained(0.5),
        RANDOM: trained(0.9, 3, 5),
        PUBLISHED: trained(0.95, 3, 5),
        SEARCHED: trained(0.98, 5, 7, seconds=4.0),
    }
    return {**made, **more}


def test_the_rules_hold_for_the_card_s_expectation() -> None:
    checks = judge([result(), result()])
    assert all(check.passed for check in checks)
    (cost,) = losses([result()])
    assert "4.0 times the CPU seconds" in cost


@pytest.mark.parametrize(
    ("name", "changed", "asked"),
    [
        (GATE, trained(0.7), "channel gate"),
        (NOISE, trained(0.7), "without pooling"),
        (SEARCHED, trained(0.8, 5), "accuracy, searched cell"),
        (SEARCHED, trained(0.98, 3), "windows"),
    ],
)
def test_each_rule_can_fail(name: str, changed: Trained, asked: str) -> None:
    broken = [c.asked for c in judge([result(**{name: changed})]) if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def digits(**more: Trained) -> dict[str, Trained]:
    names = (PLAIN, GATED, CELL, CELL_BY_ASAM, RANDOM_CELL)
    return {**{name: trained(0.9) for name in names}, **more}


def test_equal_nets_pass_on_digits() -> None:
    assert all(check.passed for check in judge_digits([digits()]))


@pytest.mark.parametrize(
    ("name", "changed", "asked"),
    [
        (PLAIN, trained(0.906), "minus ResNet-8"),
        (RANDOM_CELL, trained(0.911), "random cells"),
        (CELL, replace(trained(0.9), params=2), "parameters"),
    ],
)
def test_each_rule_on_digits_can_fail(name: str, changed: Trained, asked: str) -> None:
    checks = judge_digits([digits(**{name: changed})])
    broken = [c.asked for c in checks if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_random_cells_follow_from_the_seed() -> None:
    assert random_genotype(3) == random_genotype(3) != random_genotype(4)
    assert [len(edges) for edges in random_genotype(0).nodes] == [1, 2, 3]


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()
