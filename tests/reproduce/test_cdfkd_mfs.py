import functools

import pytest

from sartor.core import DataError
from sartor.measure import count_params
from sartor.reproduce.cdfkd_mfs import ABLATIONS, SEEDS, judge, losses, run
from sartor.reproduce.cdfkd_mfs_nets import SealedData, conv_student, conv_teacher
from sartor.reproduce.cdfkd_mfs_training import (
    ATTENTION,
    ENSEMBLE,
    FULL,
    LONGER,
    METHOD,
    NO_PRIOR,
    SINGLE,
    Distilled,
)
from sartor.reproduce.evidence import Evidence
from sartor.testing import EvidenceContract


def made(accuracy: float, *, heads: tuple[float, ...] = (0.9,), **more) -> Distilled:
    fields = {"params": 100, "iterations": 120, "seconds": 1.0}
    return Distilled(accuracy=accuracy, heads=heads, **{**fields, **more})


def result(**more: Distilled) -> dict[str, Distilled]:
    table = {
        ENSEMBLE: made(0.98, heads=(0.97, 0.98)),
        METHOD: made(0.95, heads=(0.93, 0.95), seconds=2.0, params=230),
        ATTENTION: made(0.95),
        SINGLE: made(0.94),
        LONGER: made(0.96),
        **{name: made(0.94) for name in ABLATIONS},
    }
    return {**table, **more}


def test_the_experiment_is_that_of_the_card() -> None:
    assert FULL.iterations == 120 and FULL.epochs == 15 and len(SEEDS) == 3
    assert count_params(conv_student(3, seed=0)) == 38_806
    channels = [block[0].out_channels for block in conv_teacher(0)[:4]]
    assert channels == [16, 32, 32, 32]


def test_what_holds_passes_and_what_does_not_is_told() -> None:
    results = [result(), {k: v for k, v in result().items() if k not in ABLATIONS}]
    checks = judge(results)
    assert all(check.passed for check in checks if check.decides)
    lost = [check.asked for check in checks if not check.passed]
    assert lost == ["control: three teachers minus one teacher for as much compute"]
    (told,) = losses(results)
    assert "2.0 times the compute" in told and "2.3 times" in told


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({METHOD: made(0.95, heads=(0.96, 0.97))}, "minus a single head"),
        ({SINGLE: made(0.946)}, "three teachers minus one"),
        ({ENSEMBLE: made(1.0)}, None),
        ({ENSEMBLE: made(1.02)}, "student minus teachers"),
        ({NO_PRIOR: made(0.9, reads=1)}, "times that real data were asked for"),
        (
            {
                METHOD: made(0.89, heads=(0.8,)),
                SINGLE: made(0.8),
                ENSEMBLE: made(0.9),
                **{name: made(0.8) for name in (ATTENTION, LONGER, *ABLATIONS)},
            },
            "accuracy of the student",
        ),
    ],
)
def test_each_rule_can_fail(changed: dict, asked: str | None) -> None:
    broken = [c.asked for c in judge([result(**changed)]) if c.decides and not c.passed]
    assert len(broken) == (asked is not None)
    assert asked is None or asked in broken[0]


def test_sealed_data_count_who_tried() -> None:
    data = SealedData()
    for _ in range(2):
        with pytest.raises(DataError, match="must not read them"):
            iter(data)
    assert data.reads == 2


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()
