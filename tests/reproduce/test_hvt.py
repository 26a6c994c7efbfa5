import functools
from dataclasses import replace

import pytest
import torch

from sartor.measure import count_flops
from sartor.reproduce.backbone_training import Trained
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.hvt import (
    PLAIN,
    POOLED,
    TOKEN,
    WIDENED,
    Outcome,
    judge,
    nets,
    run,
)
from sartor.testing import EvidenceContract


def net(accuracy: float, macs: float) -> Trained:
    return Trained(name="net", macs=macs, params=10, accuracy=accuracy, seconds=1.0)


#: what the card measured
CARD = Outcome(
    nets={
        PLAIN: net(0.360, 14.88e6),
        POOLED: net(0.380, 8.81e6),
        WIDENED: net(0.384, 14.9e6),
        TOKEN: net(0.3635, 15.1e6),
    },
    step_ms={PLAIN: 1.0, POOLED: 0.63},
)


def test_the_cards_figures_pass() -> None:
    checks = judge([CARD])
    assert len(checks) == 6 and all(check.passed and check.decides for check in checks)
    assert checks[0].measured == pytest.approx(0.592, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "changed", "asked"),
    [
        (POOLED, {"macs": 9.5e6}, "MACs with one pool"),
        (POOLED, {"accuracy": 0.33}, "accuracy with one pool"),
        (WIDENED, {"macs": 16e6}, "MACs of the widened"),
        (WIDENED, {"accuracy": 0.34}, "accuracy of the widened"),
        (TOKEN, {"accuracy": 0.38}, "class token"),
    ],
)
def test_each_rule_can_fail(name: str, changed: dict, asked: str) -> None:
    outcome = replace(CARD, nets={**CARD.nets, name: replace(CARD.nets[name], **changed)})
    failed = [check.asked for check in judge([outcome]) if not check.passed]
    assert len(failed) == 1 and asked in failed[0]


def test_the_time_of_a_step_can_fail() -> None:
    slow = replace(CARD, step_ms={PLAIN: 1.0, POOLED: 0.9})
    assert [c.asked.startswith("time of") for c in judge([slow]) if not c.passed] == [True]


def test_costs_of_the_small_nets() -> None:
    image = torch.zeros(1, 1, 32, 32)
    macs = {name: count_flops(make(), image) / 2 for name, make in nets().items()}
    assert macs[POOLED] / macs[PLAIN] <= 0.62
    assert 0.95 <= macs[WIDENED] / macs[PLAIN] <= 1.02


@pytest.mark.slow
class TestEvidence(EvidenceContract):
    @staticmethod
    @functools.cache
    def made() -> Evidence:
        return run(quick=True)

    def evidence(self) -> Evidence:
        return self.made()
