import functools

import pytest
import torch

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.token_crisis import ARMS, CONTROL, EARLY, LATE, PLENTY, REPEATED, judge, run
from sartor.reproduce.token_crisis_training import CONTEXT, FULL, QUICK, Run, corpus, trained
from sartor.testing import EvidenceContract
from sartor.train import OverfitReport


def made(last: float, lowest: float | None = None, half: float = 3.0) -> Run:
    low = last if lowest is None else lowest
    report = OverfitReport(
        best_step=1, best_loss=low, last_loss=last, degradation=last - low, gap=0.0
    )
    return Run(report=report, curve={5: half, 10: last}, epochs=1.0, seconds=1.0)


GOOD = {
    PLENTY: made(2.0),
    REPEATED: made(2.8, 2.6, 2.7),
    EARLY: made(2.7, half=2.8),
    LATE: made(2.65, half=2.7),
    CONTROL: made(2.3),
}


def checks(**more: Run) -> list:
    results = {arm: [more.get(arm, one)] * 2 for arm, one in GOOD.items()}
    widths = {w: made(2.0 + d, 2.0) for w, d in ((32, 0.1), (64, 0.2))}
    return list(judge(results, widths, {0.0: made(2.9, 2.7), 0.2: made(2.8)}))


def test_the_rules_by_hand() -> None:
    measured = [round(check.measured, 6) for check in checks()]
    assert measured == [0.8, 0.2, 0.15, -0.05, 0.1, 0.3, 0.1, 0.2, 0.01]
    assert all(check.passed for check in checks())


@pytest.mark.parametrize(
    ("arm", "changed", "asked"),
    [
        (PLENTY, made(2.5), "cost of repetition"),
        (REPEATED, made(2.8, 2.77, 2.7), "D, last minus lowest"),
        (LATE, made(2.76, half=2.7), "minus late dropout"),
        (LATE, made(2.73, half=2.7), "late dropout minus dropout from the start"),
        (EARLY, made(2.7, half=2.6), "loss at half"),
        (CONTROL, made(1.9), "control"),
    ],
)
def test_each_rule_can_fail(arm: str, changed: Run, asked: str) -> None:
    broken = [check.asked for check in checks(**{arm: changed}) if not check.passed]
    assert any(asked in words for words in broken)


def test_the_text_is_large_enough_and_its_parts_are_apart() -> None:
    train, held = corpus().train, corpus().validation
    assert len(train) > FULL.steps * 16 * CONTEXT  # the unique runs repeat nothing
    assert len(train) > 3 * 5 * FULL.subset
    assert int(train.min()) >= 0 and int(train.max()) < 96 and len(held) > 50_000
    assert FULL.steps * 16 * CONTEXT / FULL.subset == pytest.approx(68.267, abs=5e-4)


def test_late_is_the_run_without_dropout_until_half() -> None:
    late, plain = (trained(QUICK, 0, **ARMS[arm]) for arm in (LATE, REPEATED))
    half = QUICK.steps // 2
    for step, loss in plain.curve.items():
        assert (late.curve[step] == loss) == (step <= half)


@functools.cache
def quick_run() -> Evidence:
    with torch.random.fork_rng():
        return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_every_run_is_in_the_tables(self) -> None:
        first, second = quick_run().tables.values()
        assert len(first) == len(ARMS) and len(second) == 4 and len(quick_run().checks) == 9
