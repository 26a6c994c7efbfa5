import functools

import pytest
import torch

from sartor.data.memory import ImageTensors
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.vanilla_kd import judge, run
from sartor.reproduce.vanilla_kd_training import (
    DIST,
    DKD,
    HEAVY,
    KD,
    LABELS,
    QUICK,
    Digits,
    Shifted,
    Trained,
)
from sartor.testing import EvidenceContract

GOOD = {
    "small": {LABELS: 0.70, KD: 0.75, HEAVY: 0.76, DKD: 0.80, DIST: 0.74},
    "middle": {LABELS: 0.90, KD: 0.92, HEAVY: 0.92, DKD: 0.92, DIST: 0.91},
    "large": {LABELS: 0.90, KD: 0.93, HEAVY: 0.93, DKD: 0.92, DIST: 0.935},
}


def results(**more: dict[str, float]) -> dict[str, dict[str, list[Trained]]]:
    return {
        regime: {
            name: [Trained(accuracy=a + d, selection=0.0, seconds=1.0) for d in (-0.02, 0.02)]
            for name, a in {**by_loss, **more.get(regime, {})}.items()
        }
        for regime, by_loss in GOOD.items()
    }


def test_the_rules_by_hand() -> None:
    checks = judge(results())
    measured = [round(check.measured, 6) for check in checks]
    assert measured == [0.045, 0.02, 0.005, 0.05, 0.04]
    assert all(check.passed for check in checks)


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({"small": {DKD: 0.76}}, "small regime minus large regime"),
        ({"middle": {KD: 0.905}}, "labels alone, middle"),
        ({"large": {DIST: 0.945}}, "large regime, absolute"),
        ({"large": {DIST: 0.91, DKD: 0.91}}, "large regime, absolute"),
    ],
)
def test_each_rule_can_fail(changed: dict, asked: str) -> None:
    checks = judge(results(**changed))
    broken = [c.asked for c in checks if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_the_control_is_the_better_weight() -> None:
    checks = judge(results(small={HEAVY: 0.81}))
    assert [round(c.measured, 6) for c in checks if "control" in c.asked] == [-0.01]


def test_splits_are_apart_and_of_the_cards_sizes() -> None:
    digits = Digits.of(0)
    parts = [digits.train, digits.selection, digits.validation]
    assert [len(images) for images, _ in parts] == [897, 300, 600]
    assert sum(len(images) for images, _ in parts) == 1797


def test_shifting_moves_by_one_pixel_at_most() -> None:
    images = torch.zeros(200, 1, 8, 8)
    images[:, 0, 4, 3] = 100.0
    data = Shifted(images, torch.zeros(200), mean=torch.zeros(1), std=torch.ones(1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        moved, _ = data.__getitems__(range(200))
    at = {divmod(index, 8) for index in moved.flatten(1).argmax(1).tolist()}
    assert at == {(row, column) for row in (3, 4, 5) for column in (2, 3, 4)}
    plain = ImageTensors(images, torch.zeros(200), mean=torch.zeros(1), std=torch.ones(1))
    assert moved.shape == plain.__getitems__(range(200))[0].shape


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_every_student_is_in_the_table(self) -> None:
        (rows,) = quick_run().tables.values()
        assert len(rows) == 5 * len(QUICK) and len(quick_run().checks) == 5
        assert min(row["mean"] for row in rows) > 0.4  # it learned; chance is 0.1
