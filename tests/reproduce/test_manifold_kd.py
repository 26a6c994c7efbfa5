import functools

import pytest

from sartor.losses import ManifoldTerms
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.manifold_kd import KD, LABELS, MANIFOLD, Arm, judge, losses, run
from sartor.testing import EvidenceContract

#: what the card measured
CARD = {
    LABELS: Arm(accuracy=0.836, gaps=ManifoldTerms(0.062, 0.092, 0.095), seconds=8.0),
    KD: Arm(accuracy=0.841, gaps=ManifoldTerms(0.057, 0.082, 0.084), seconds=8.0),
    MANIFOLD: Arm(accuracy=0.857, gaps=ManifoldTerms(0.016, 0.058, 0.059), seconds=12.0),
}


def other(
    accuracy: float = 0.857, gaps: tuple[float, float, float] = (0.016, 0.058, 0.059)
) -> dict:
    return {**CARD, MANIFOLD: Arm(accuracy=accuracy, gaps=ManifoldTerms(*gaps), seconds=12.0)}


def test_the_cards_figures_pass() -> None:
    checks = judge([CARD])
    assert [c.decides for c in checks] == [True] * 4 + [False] * 2
    assert [c.passed for c in checks] == [True] * 4 + [False, True]
    wanted = [3.5625, 0.7073, 0.7024, 0.016, 0.016, 0.021]
    assert [c.measured for c in checks] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({"gaps": (0.03, 0.058, 0.059)}, 0),
        ({"gaps": (0.016, 0.07, 0.059)}, 1),
        ({"gaps": (0.016, 0.058, 0.07)}, 2),
        ({"accuracy": 0.83}, 3),
    ],
)
def test_each_rule_can_fail(changed: dict, failing: int) -> None:
    checks = judge([other(**changed)])
    assert [c.passed for c in checks if c.decides].index(False) == failing


def test_losses_name_the_cost() -> None:
    (cost,) = losses([CARD])
    assert "1.50 times the CPU seconds of KD" in cost


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestEvidence(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_patches_come_closer_even_in_a_quick_run(self) -> None:
        evidence = self.evidence()
        assert evidence.checks[0].measured > 1.2
        rows = next(iter(evidence.tables.values()))
        assert [row["loss"] for row in rows] == [LABELS, KD, MANIFOLD]
