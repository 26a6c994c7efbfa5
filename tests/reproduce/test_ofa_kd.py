import functools

import pytest

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.ofa_kd import FULL, HINTS, KD, LABELS, LAST, Arm, judge, losses, run
from sartor.testing import EvidenceContract


def arms(**accuracies: float) -> dict[str, Arm]:
    names = {"labels": LABELS, "kd": KD, "last": LAST, "full": FULL, "hints": HINTS}
    return {names[k]: Arm(accuracy=v, seconds=2.0 + (k == "full")) for k, v in accuracies.items()}


#: what the card measured
CARD = arms(labels=0.926, kd=0.944, last=0.948, full=0.944, hints=0.826)
FEW = arms(labels=0.71, kd=0.71, full=0.62)


def test_the_cards_figures_pass() -> None:
    checks = judge([CARD], [FEW])
    assert [c.passed for c in checks] == [True, True, True, False, False]
    assert [c.decides for c in checks] == [True, True, True, False, False]
    measured = [c.measured for c in checks]
    assert measured == pytest.approx([0.018, 0.118, 0.0, 0.0, -0.09])


@pytest.mark.parametrize(
    ("changed", "failing"),
    [({"labels": 0.937}, 0), ({"hints": 0.9}, 1), ({"kd": 0.9545}, 2)],
)
def test_each_rule_can_fail(changed: dict[str, float], failing: int) -> None:
    checks = judge([{**CARD, **arms(**changed)}], [FEW])
    assert [c.passed for c in checks if c.decides].index(False) == failing


def test_means_are_over_seeds_and_losses_name_the_cost() -> None:
    worse = {**CARD, **arms(hints=0.95)}
    checks = judge([CARD, worse], [FEW, FEW])
    assert checks[1].measured == pytest.approx(0.944 - 0.888)
    (cost,) = losses([worse])
    assert "1.50 times the CPU seconds of KD" in cost


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestEvidence(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_every_arm_learns(self) -> None:
        rows = next(iter(self.evidence().tables.values()))
        assert [row["loss"] for row in rows] == [LABELS, KD, LAST, FULL, HINTS]
        assert all(row["mean"] > 0.2 for row in rows)
