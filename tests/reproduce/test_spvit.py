import functools
from dataclasses import replace

import pytest

from sartor.compress.spvit_search import Architecture
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.spvit import judge, run
from sartor.reproduce.spvit_training import Outcome, shuffled
from sartor.testing import EvidenceContract

FOUND = Architecture(kinds=("conv3x3", "attention", "skip"), units=((0, 1, 2), (3,), ()))
GOOD = Outcome(
    ratio=0.6,
    architecture=FOUND,
    gates=0.5,
    realised=0.602,
    free=1.0,
    difference=1e-6,
    before=0.33,
    dense=0.35,
    searched=0.34,
    random=(0.33, 0.34),
    random_macs=(0.6, 0.6),
)
LOW = replace(GOOD, ratio=0.4, gates=0.42, realised=0.4, searched=0.3)


def test_good_figures_pass() -> None:
    checks = judge([{0.6: GOOD, 0.4: LOW}])
    assert all(check.passed for check in checks if check.decides)
    reported = {c.asked.split(",")[0]: c.measured for c in checks if not c.decides}
    assert reported == {
        "the same at 0.4": pytest.approx(-0.035),
        "multiply-adds off the target by the gates alone": pytest.approx(1 / 6),
        "accuracy at 0.6 against the dense net trained further": pytest.approx(-0.01),
        "accuracy at 0.4 against the dense net trained further": pytest.approx(-0.05),
    }


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({"realised": 0.5}, "off the target"),
        ({"free": 0.9}, "without penalty"),
        ({"difference": 1e-3}, "derived net's outputs"),
        ({"searched": 0.32}, "random architectures"),
    ],
)
def test_each_rule_can_fail(changed: dict, asked: str) -> None:
    checks = judge([{0.6: replace(GOOD, **changed), 0.4: LOW}])
    failed = [c.asked for c in checks if c.decides and not c.passed]
    assert len(failed) == 1 and asked in failed[0]


def test_random_architectures_have_the_same_parts() -> None:
    other = shuffled(FOUND, 8, seed=1)
    assert sorted(other.kinds) == sorted(FOUND.kinds)
    assert sum(map(len, other.units)) == 4
    assert other == shuffled(FOUND, 8, seed=1) != shuffled(FOUND, 8, seed=2)


@pytest.mark.slow
class TestEvidence(EvidenceContract):
    @staticmethod
    @functools.cache
    def made() -> Evidence:
        return run(quick=True)

    def evidence(self) -> Evidence:
        return self.made()
