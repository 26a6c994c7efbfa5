import functools
from typing import Any

import pytest
import torch

from sartor.measure import count_params
from sartor.nn.ghostnetv3.branches import expand_for_training
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.ghostnetv3 import judge, losses, run
from sartor.reproduce.ghostnetv3_training import (
    BRANCHES,
    LONGER,
    MIXED,
    PLAIN,
    TAUGHT,
    TEACHER,
    Trained,
    small_net,
)
from sartor.testing import EvidenceContract


def trained(accuracy: float = 0.8, **changed: Any) -> Trained:
    plain = {"train_params": 100, "params": 100, "flops": 100, "seconds": 1.0}
    return Trained(accuracy=accuracy, **{"averaged": accuracy, **plain, **changed})


def result(**more: Trained) -> dict[str, Trained]:
    made = {
        PLAIN: trained(),
        LONGER: trained(0.82),
        BRANCHES: trained(0.81, train_params=300, seconds=2.0),
        TAUGHT: trained(0.83),
        MIXED: trained(0.79),
        TEACHER: trained(0.9),
    }
    return {**made, **more}


def test_the_rules_hold_for_good_nets_and_the_control_is_reported() -> None:
    checks = judge([result(), result()], {"net": 1e-6})
    assert all(check.passed for check in checks if check.decides)
    (control,) = [c for c in checks if not c.passed]
    assert str(control).endswith("minus control: plain, 2 times the epochs: -0.01, asked >= 0")
    (cost,) = losses([result()])
    assert "2.00 times as long" in cost and "3.00 times its parameters" in cost


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({"gap": 2e-4}, "relative change"),
        ({"differing": 0.001}, "class folding changed"),
        ({"flops": 101}, "operations"),
        ({"accuracy": 0.79, "averaged": 0.79}, "branches, minus plain"),
        ({"averaged": 0.8}, "averaged weights"),
    ],
)
def test_each_rule_can_fail(changed: dict[str, float], asked: str) -> None:
    checks = judge([result(**{BRANCHES: trained(**{"accuracy": 0.81, **changed})})], {"net": 0.0})
    broken = [c.asked for c in checks if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_a_teacher_that_does_not_help_fails() -> None:
    checks = judge([result(**{TAUGHT: trained(0.803)})], {"net": 0.0})
    assert [c.asked for c in checks if c.decides and not c.passed] == [
        "accuracy with a teacher, minus plain"
    ]


def test_a_published_net_that_folds_badly_fails() -> None:
    assert not judge([result()], {"good": 0.0, "bad": 2e-4})[0].passed


def test_branches_triple_the_small_net() -> None:
    net = small_net()
    wide = expand_for_training(net, torch.zeros(2, 1, 16, 16), keep_function=False)
    assert 2.9 < count_params(wide) / count_params(net) < 3.3


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_folding_does_not_depend_on_the_training(self) -> None:
        assert all(check.passed for check in quick_run().checks[:3])
