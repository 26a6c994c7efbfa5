import functools
from collections.abc import Mapping

import pytest

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.mesa import judge, run
from sartor.reproduce.mesa_training import (
    ATTENTIONS,
    EXACT,
    FULL,
    MESA,
    ONE_GROUP,
    QUICK,
    TOKEN,
    TWO_BITS,
    VARIANTS,
    Measured,
    Trained,
)
from sartor.testing import EvidenceContract
from sartor.train.mesa.settings import MesaReport

ACCURACIES = {EXACT: 0.92, MESA: 0.91, TWO_BITS: 0.80}


def results(**changed: float) -> dict[str, list[Trained]]:
    mean = {**dict.fromkeys((EXACT, *VARIANTS), 0.9), **ACCURACIES}
    mean |= {{"mesa": MESA, "two_bits": TWO_BITS}[name]: value for name, value in changed.items()}
    return {
        name: [Trained(accuracy=value + d, seconds=1.0, error=0.0) for d in (-0.02, 0.02)]
        for name, value in mean.items()
    }


def measured(
    *, stored: int = 26, differing: int = 0, errors: Mapping[str, float] | None = None
) -> list[Measured]:
    return [
        Measured(
            attention=attention,
            moment=moment,
            report=MesaReport(exact_bytes=100, stored_bytes=stored, kinds={}),
            checkpointed=20,
            both=6,
            differing=differing,
            errors={**dict.fromkeys(VARIANTS, 0.005), MESA: 0.004, **(errors or {})},
        )
        for attention in ATTENTIONS
        for moment in ("start", TOKEN, "end")
    ]


def test_the_rules_by_hand() -> None:
    checks = judge(results(), measured())
    found = [round(check.measured, 6) for check in checks]
    assert found == [0.26, 0, 0.004, 0.8, 0.01, 0.12, 0.004, 1.3]
    assert all(check.passed for check in checks if check.decides)
    assert [c.measured for c in checks if not c.passed] == [1.3]


@pytest.mark.parametrize(
    ("trained", "steps", "asked"),
    [
        ({}, {"stored": 31}, "bytes with Mesa"),
        ({}, {"differing": 1}, "outputs that differ"),
        ({}, {"errors": {MESA: 0.011, ONE_GROUP: 0.02}}, "relative error"),
        ({}, {"errors": {ONE_GROUP: 0.0043}}, "one range"),
        ({"mesa": 0.89}, {}, "Mesa against exact"),
        ({"mesa": 0.95}, {}, "Mesa against exact"),
    ],
)
def test_each_rule_can_fail(trained: dict, steps: dict, asked: str) -> None:
    checks = judge(results(**trained), measured(**steps))
    broken = [c.asked for c in checks if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_the_control_says_whether_rounding_can_hurt_at_all() -> None:
    (control,) = [c for c in judge(results(two_bits=0.92), measured()) if "control" in c.asked]
    assert not control.passed and not control.decides


def test_every_variant_but_one_differs_from_mesa_in_one_setting() -> None:
    own = vars(VARIANTS[MESA])
    for name, settings in VARIANTS.items():
        changed = [key for key, value in vars(settings).items() if value != own[key]]
        assert len(changed) == (name != MESA), name


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_what_does_not_depend_on_training_holds(self) -> None:
        made = quick_run()
        size, outputs, error = made.checks[:3]
        assert "bytes" in size.asked and size.passed
        assert "outputs that differ" in outputs.asked and outputs.measured == 0
        assert "error of the gradient" in error.asked and error.passed
        assert QUICK.epochs < FULL.epochs and len(made.tables) == 3
