import functools

import pytest
import torch

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.vmrnn import judge, losses, run
from sartor.reproduce.vmrnn_training import (
    CONVLSTM,
    COPY,
    MEAN,
    OURS,
    QUICK,
    SHORT,
    ZERO,
    ConvLSTM,
    Forecast,
    draw_frames,
    frame_error,
    vmrnn,
)
from sartor.testing import EvidenceContract


def forecast(error: float, *, epochs: int = 1, seconds: float = 2.0) -> Forecast:
    return Forecast(selection=error, test=error, params=10, epochs=epochs, seconds=seconds)


def result(**more: Forecast) -> dict[str, Forecast]:
    made = {
        ZERO: forecast(2.8),
        MEAN: forecast(2.47),
        COPY: forecast(4.65),
        SHORT: forecast(2.2),
        CONVLSTM: forecast(1.8, epochs=5),
        OURS: forecast(1.0, seconds=20.0),
    }
    return {**made, **more}


def test_the_nets_have_the_card_s_sizes() -> None:
    for make, params in ((vmrnn, 17_313), (ConvLSTM, 18_721)):
        model = make()
        assert sum(p.numel() for p in model.parameters()) == params
        assert model(torch.zeros(2, 4, 1, 8, 8)).shape == (2, 7, 1, 8, 8)


def test_the_rules_hold_for_a_net_that_learned() -> None:
    checks = judge([result(), result()], growth=4.0)
    assert all(check.passed for check in checks)
    assert losses([result()]) == ("An epoch takes 50.0 times the CPU seconds of the ConvLSTM's.",)


@pytest.mark.parametrize(
    ("changed", "growth", "asked"),
    [
        ({OURS: forecast(1.5), CONVLSTM: forecast(1.9)}, 4.0, "mean frame"),
        ({CONVLSTM: forecast(1.2)}, 4.0, "in equal time"),
        ({}, 6.1, "time of the scan"),
    ],
)
def test_each_rule_can_fail(changed: dict, growth: float, asked: str) -> None:
    checks = judge([result(**changed)], growth)
    broken = [c.asked for c in checks if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_black_frames_are_no_forecast() -> None:
    """They beat the last frame by 40 %, and break the rule."""
    black = result(**{OURS: forecast(2.8)})
    checks = judge([black], 4.0)
    assert not checks[0].passed and black[OURS].test < 0.65 * black[COPY].test


def test_splits_are_drawn_apart_and_again() -> None:
    one, again = (draw_frames(3, QUICK) for _ in range(2))
    assert torch.equal(one.test, again.test)
    assert one.train.shape == (QUICK.sequences, 8, 1, 8, 8) and len(one.test) == 200
    assert not torch.equal(one.selection, one.test)


def test_errors_are_sums_over_a_frame() -> None:
    frames = torch.zeros(2, 3, 1, 4, 4)
    assert frame_error(frames + 0.5, frames) == pytest.approx(16 * 0.25)


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_what_needs_no_learning_has_the_card_s_errors(self) -> None:
        (rows,) = quick_run().tables.values()
        errors = {row["forecast"]: row["mean"] for row in rows}
        assert errors[ZERO] == pytest.approx(2.8, abs=1e-3)
        assert errors[MEAN] == pytest.approx(2.47, abs=0.03)
        assert errors[COPY] == pytest.approx(4.65, abs=0.15)
