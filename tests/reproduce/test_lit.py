import functools
from dataclasses import replace

import pytest
import torch

from sartor.measure import count_flops
from sartor.reproduce.backbone_training import Trained
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.lit import (
    ALL_STAGES,
    LIT_STAGES,
    Outcome,
    judge,
    losses,
    published_costs,
    run,
    toy,
)
from sartor.testing import EvidenceContract


def net(accuracy: float, seconds: float = 1.0) -> Trained:
    return Trained(name="net", macs=1e6, params=10, accuracy=accuracy, seconds=seconds)


COSTS = {"LIT": 4e9, "attention everywhere": 9e9}
GOOD = Outcome(
    lit=net(0.6), everywhere=net(0.6), rigid=net(0.6), offset=0.1, step_ms=7, everywhere_step_ms=10
)


def test_figures_within_the_rules_pass() -> None:
    checks = judge(COSTS, [GOOD, GOOD])
    assert all(check.passed for check in checks)
    assert losses([GOOD]) == ()


@pytest.mark.parametrize(
    ("costs", "changed", "asked"),
    [
        ({"LIT": 5e9}, {}, "MACs"),
        ({}, {"lit": net(0.5)}, "accuracy against attention"),
        ({}, {"step_ms": 8.0}, "training step"),
        ({}, {"offset": 1e-4}, "taps moved"),
    ],
)
def test_each_rule_can_fail(costs: dict, changed: dict, asked: str) -> None:
    outcome = replace(GOOD, **changed)
    checks = judge({**COSTS, **costs}, [outcome])
    failed = [check.asked for check in checks if check.decides and not check.passed]
    assert len(failed) == 1 and asked in failed[0]


def test_slower_training_is_a_loss() -> None:
    outcome = replace(GOOD, lit=net(0.6, seconds=1.5))
    assert "1.50 times the CPU seconds" in losses([outcome])[0]


def test_the_published_size_costs_half() -> None:
    costs = published_costs()
    assert costs["LIT"] <= 0.5 * costs["attention everywhere"]


def test_the_small_nets_are_the_cards() -> None:
    """About half the cost; the rigid one has the same weights but cannot move its taps."""
    image = torch.zeros(1, 1, 32, 32)
    lit, everywhere, rigid = toy(LIT_STAGES), toy(ALL_STAGES), toy(LIT_STAGES, rigid=True)
    assert 0.4 < count_flops(lit, image) / count_flops(everywhere, image) < 0.6
    frozen = [name for name, p in rigid.named_parameters() if not p.requires_grad]
    assert len(frozen) == 4 and all(".offset." in name for name in frozen)


@pytest.mark.slow
class TestEvidence(EvidenceContract):
    @staticmethod
    @functools.cache
    def made() -> Evidence:
        return run(quick=True)

    def evidence(self) -> Evidence:
        return self.made()
