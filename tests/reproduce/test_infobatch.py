import functools

import pytest
import torch

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.infobatch import judge, run
from sartor.reproduce.infobatch_training import (
    ARMS,
    FLAT,
    HARDEST,
    INFOBATCH,
    PLAIN,
    SHORTER,
    UNIFORM,
    Digits,
    Run,
    Trained,
    train_arms,
)
from sartor.testing import EvidenceContract

CLEAN = {PLAIN: 0.97, INFOBATCH: 0.97, UNIFORM: 0.96, FLAT: 0.97, HARDEST: 0.965, SHORTER: 0.96}
WRONG = {PLAIN: 0.90, INFOBATCH: 0.91, UNIFORM: 0.91, FLAT: 0.90, HARDEST: 0.80, SHORTER: 0.9}


def results(share: float = 0.7, **changed: float) -> dict[str, dict[str, list[Trained]]]:
    def made(accuracy: float) -> list[Trained]:
        return [
            Trained(accuracy=accuracy + d, selection=0.0, share=share, seconds=1.0)
            for d in (-0.02, 0.02)
        ]

    clean = {**CLEAN, **changed}
    return {
        "clean": {name: made(accuracy) for name, accuracy in clean.items()},
        "wrong": {name: made(accuracy) for name, accuracy in WRONG.items()},
    }


def test_the_rules_by_hand() -> None:
    checks = judge(results())
    measured = [round(check.measured, 6) for check in checks]
    assert measured == [0.0, 0.7, 0.01, 0.01, 0.0, 0.005, 0.01, 0.0, 0.01, 0.01, 0.11]
    assert [check.decides for check in checks] == [True] * 3 + [False] * 8
    assert all(check.passed for check in checks)


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({PLAIN: 0.976}, "'all samples', clean"),
        ({UNIFORM: 0.973}, "'random samples, as many', clean"),
        ({"share": 0.73}, "samples trained on"),
    ],
    ids=["accuracy", "blind", "share"],
)
def test_each_rule_can_fail(changed: dict, asked: str) -> None:
    checks = judge(results(**changed))
    broken = [c.asked for c in checks if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_splits_are_apart_and_wrong_labels_are_for_training_alone() -> None:
    clean, wrong = Digits.of(0), Digits.of(0, wrong=0.2)
    assert [len(y) for _, y in (clean.train, clean.selection, clean.test)] == [897, 300, 600]
    different = clean.train[1] != wrong.train[1]
    assert int(different.sum()) == round(0.2 * 897)
    for part in ("selection", "test"):
        assert torch.equal(getattr(clean, part)[1], getattr(wrong, part)[1])
    assert bool(((wrong.train[1] >= 0) & (wrong.train[1] < 10)).all())


def test_all_ways_take_as_many_samples_as_they_say() -> None:
    made = train_arms(0, 0.0, Run(epochs=4, regimes={"clean": 0.0}))
    assert tuple(made) == ARMS and made[PLAIN].share == 1
    assert made[INFOBATCH].share == made[UNIFORM].share == made[HARDEST].share < 0.9
    assert made[SHORTER].share in (0.5, 0.75, 1.0)
    assert min(one.accuracy for one in made.values()) > 0.5  # it learned; chance is 0.1


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_every_way_is_in_the_table(self) -> None:
        (rows,) = quick_run().tables.values()
        assert [row["an epoch takes"] for row in rows] == list(ARMS)
