import functools

import pytest

from sartor.reproduce.cowclip import carrier, judge, run
from sartor.reproduce.cowclip_training import (
    BASE,
    COWCLIP,
    FULL,
    LINEAR,
    NOTHING,
    SCALING,
    SQRT,
    Trained,
)
from sartor.reproduce.evidence import Evidence
from sartor.testing import EvidenceContract

#: the card's own table: AUC and logloss of the first setting, AUC of the second
CARD = {
    BASE: (0.6787, 0.5856, 0.7277),
    NOTHING: (0.6929, 0.5601, 0.70),
    SQRT: (0.6923, 0.5789, 0.7313),
    LINEAR: (0.6577, 0.6911, 0.7156),
    SCALING: (0.6988, 0.5558, 0.7081),
    COWCLIP: (0.6990, 0.5557, 0.7081),
}


def trained(auc: float, log_loss: float) -> list[Trained]:
    return [
        Trained(auc=auc + d, log_loss=log_loss, selection=0.0, clipped=0.01, steps=1, seconds=1.0)
        for d in (-0.01, 0.01)
    ]


def results(**changed: float) -> tuple[dict, dict]:
    many = {name: trained(changed.get(name, auc), loss) for name, (auc, loss, _) in CARD.items()}
    return many, {name: trained(auc, 0.5) for name, (_, _, auc) in CARD.items()}


def test_the_rules_on_the_cards_own_numbers() -> None:
    checks = judge(*results())
    measured = [round(check.measured, 4) for check in checks]
    assert measured == [0.0203, 0.0413, -0.0299, 0.0002, 0.0061, -0.0196]
    assert [check.decides for check in checks] == [True] * 3 + [False] * 3
    assert [check.passed for check in checks] == [True, True, True, False, True, False]


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({BASE: 0.7015}, "minus the base run's"),
        ({LINEAR: 0.68}, "minus the linear rule's"),
    ],
)
def test_each_rule_on_auc_can_fail(changed: dict, asked: str) -> None:
    broken = [c.asked for c in judge(*results(**changed)) if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_the_rule_on_logloss_can_fail() -> None:
    many, few = results()
    many[BASE] = trained(0.67, 0.55)
    broken = [c.asked for c in judge(many, few) if c.decides and not c.passed]
    assert len(broken) == 1 and "logloss" in broken[0]


def test_it_says_what_carries_the_effect() -> None:
    (said,) = carrier(results()[0])
    assert said.startswith("The scaling of rates and penalty carries the effect, not the clip")
    assert "0.6988" in said and "0.6990" in said and "1.000%" in said
    (said,) = carrier(results(**{COWCLIP: 0.71})[0])
    assert said.startswith("The clip adds 0.0112 AUC to the scaling")


def test_the_settings_are_the_cards() -> None:
    many, few = FULL
    assert (many.views, many.epochs, many.base, many.batch) == (65_536, 6, 64, 1024)
    assert (few.views, few.epochs, few.base, few.batch) == (131_072, 3, 256, 8192)


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_every_run_is_in_both_tables(self) -> None:
        for rows in quick_run().tables.values():
            assert [row["run"] for row in rows] == list(CARD)
            base, large = rows[0], rows[-1]
            assert base["steps"] > 4 * large["steps"]
            assert base["mean AUC"] > 0.51  # it learned something
