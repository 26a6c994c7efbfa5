import functools

import pytest
import torch
from torch import nn

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.low_precision import (
    NEAREST,
    PLAIN,
    RANDOM,
    SLOW,
    VARIANTS,
    Rounded,
    judge,
    run,
)
from sartor.reproduce.low_precision_training import QUICK, Digits, Trained, trained
from sartor.testing import EvidenceContract

GOOD = dict.fromkeys(VARIANTS, 0.02) | {SLOW: 0.5, NEAREST: 2.0, RANDOM: 0.51}
ROUNDED = Rounded(plain=0.98, after=0.90, longer=0.91, step=0.95, during=0.97)


def made(loss: float, state: int) -> Trained:
    return Trained(model=nn.Identity(), loss=loss, accuracy=0.9, state_bytes=state, seconds=1.0)


def checks(rounded: Rounded = ROUNDED, state: int = 26, **more: float) -> list:
    losses = GOOD | more
    results = {
        name: [made(loss, state if "moments" in name else 100)] * 2 for name, loss in losses.items()
    }
    return list(judge(results, [rounded] * 2))


def test_the_rules_by_hand() -> None:
    found = [round(check.measured, 6) for check in checks()]
    assert found == [0.01, 1.5, 0, 0, 0, 0, 0, 0, 0.26, 0.875, 0.02, 0, 0, 0]
    assert all(check.passed for check in checks())


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({RANDOM: 0.53}, "stochastic, lr 1e-4"),
        ({NEAREST: 1.4}, "nearest, lr 1e-4"),
        ({"int8 rows": 0.04}, "int8 rows"),
        ({"MXFP8 E4M3": 0.04}, "MXFP8 E4M3"),
        ({"MXFP4": 0.06}, "float32: MXFP4"),
        ({"AdamW, 8-bit moments": 0.04}, "8-bit moments"),
        ({"AdamW, FP8 moments": 0.04}, "FP8 moments"),
    ],
)
def test_each_loss_rule_can_fail(changed: dict, asked: str) -> None:
    broken = [c.asked for c in checks(**changed) if c.decides and not c.passed]
    assert any(asked in words for words in broken)


def test_the_other_rules_can_fail() -> None:
    poor = Rounded(plain=0.98, after=0.90, longer=0.99, step=0.95, during=0.92)
    broken = [c.asked for c in checks(poor, state=28) if not c.passed]
    assert [words.split(":")[0] for words in broken] == [
        "bytes of 8-bit and FP8 moments, share of float32",
        "share of the drop by two bits that training with them recovers",
        "control",
    ]


def test_splits_are_apart_and_variants_start_alike() -> None:
    digits = Digits.of(0)
    assert len(digits.train[0]) + len(digits.test[0]) == 1797
    one, two = (trained(QUICK, digits, 0, {}) for _ in range(2))
    assert one.loss == two.loss and one.state_bytes == two.state_bytes
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_every_variant_is_in_the_table(self) -> None:
        first, second = quick_run().tables.values()
        assert [row["variant"] for row in first] == list(VARIANTS) and len(second) == 5
        assert first[0]["variant"] == PLAIN and len(quick_run().checks) == 14
