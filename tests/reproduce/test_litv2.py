import functools

import pytest
import torch

from sartor.nn.litv2.hilo import HiLoAttention
from sartor.reproduce.backbone_training import Trained
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.litv2 import Outcome, judge, losses, run
from sartor.reproduce.litv2_layers import Timing, high_shares
from sartor.testing import EvidenceContract


def net(accuracy: float) -> Trained:
    return Trained(name="net", macs=1e6, params=10, accuracy=accuracy, seconds=1.0)


#: what the card measured, at 14 x 14, 28 x 28 and 56 x 56, HiLo without kernel
TIMINGS = [
    Timing(side=14, plain=27, hilo=15, plain_fused=12, hilo_fused=13),
    Timing(side=28, plain=184, hilo=54, plain_fused=96, hilo_fused=54),
    Timing(side=56, plain=3634, hilo=852, plain_fused=982, hilo_fused=500),
]
NOISES = [(0.19, 0.002), (0.20, 0.001)]
OUTCOMES = [Outcome(hilo=net(0.50), plain=net(0.51), high=0.2, low=0.1)]


def test_the_cards_figures_pass() -> None:
    checks = judge(TIMINGS, NOISES, OUTCOMES)
    assert all(check.passed for check in checks if check.decides)
    assert [check.decides for check in checks].count(True) == 6
    lost = losses(TIMINGS)
    assert any("at 14 x 14 HiLo takes 1.08 times as long" in line for line in lost)


@pytest.mark.parametrize(
    ("timings", "noises", "outcome", "asked"),
    [
        ({"hilo": 120.0}, NOISES, {}, "neither fused, 28"),
        ({"hilo_fused": 80.0}, NOISES, {}, "both fused, 28"),
        ({}, [(0.1, 0.02)], {}, "on noise"),
        ({}, NOISES, {"high": 0.05}, "when trained"),
        ({}, NOISES, {"hilo": net(0.4)}, "accuracy"),
    ],
)
def test_each_rule_can_fail(timings: dict, noises: list, outcome: dict, asked: str) -> None:
    from dataclasses import replace

    changed = [TIMINGS[0], replace(TIMINGS[1], **timings), TIMINGS[2]]
    checks = judge(changed, noises, [replace(OUTCOMES[0], **outcome)])
    failed = [check.asked for check in checks if check.decides and not check.passed]
    assert len(failed) == 1 and asked in failed[0]


def test_shares_of_known_maps() -> None:
    """A layer that passes what it gets: a checkerboard is high, a constant is low."""
    from sartor.reproduce.litv2_layers import _high_share

    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).view(1, 8, 8, 1)
    assert _high_share(board) == pytest.approx(1.0)
    assert _high_share(torch.ones(1, 8, 8, 1)) == pytest.approx(0.0)
    torch.manual_seed(0)
    high, low = high_shares(HiLoAttention(64, 4, alpha=0.5), torch.randn(4, 16, 16, 64))
    assert 0.15 < high < 0.25 and low < 0.005  # the card: 0.19 to 0.20, 0.001 to 0.002


@pytest.mark.slow
class TestEvidence(EvidenceContract):
    @staticmethod
    @functools.cache
    def made() -> Evidence:
        return run(quick=True)

    def evidence(self) -> Evidence:
        return self.made()
