import functools
from dataclasses import replace

import pytest

from sartor.nn.ecoformer.energy import Energy
from sartor.reproduce.ecoformer import judge, losses, run
from sartor.reproduce.ecoformer_training import EVERY, FITTED, RANDOM, SIGN, Codes, Outcome
from sartor.reproduce.evidence import Evidence
from sartor.testing import EvidenceContract

#: what the card measured or published
ENERGIES = [(Energy(mul=540_000_000, add=569_000_000, pj=2.509e9), (0.54, 0.56, 2.5))]
SOFTMAX = Energy(mul=2_021_000_000, add=1_998_000_000, pj=9.274e9)
CARD = Outcome(
    softmax=0.791,
    longer=0.843,
    codes={
        FITTED: Codes(error=0.48, gap=0.78, before=0.3, after=0.536),
        EVERY: Codes(error=0.53, gap=0.78, before=0.3, after=0.635),
        RANDOM: Codes(error=0.53, gap=0.78),
        SIGN: Codes(error=1.5, gap=0.2, before=0.2, after=0.496),
    },
)


def test_the_cards_figures_pass() -> None:
    checks = judge(ENERGIES, SOFTMAX, [CARD])
    assert all(check.passed for check in checks if check.decides)
    assert checks[1].measured == pytest.approx(0.2705, abs=1e-4)
    (lost,) = losses([CARD])
    assert "as in the official code" in lost


@pytest.mark.parametrize(
    ("kind", "changed", "asked"),
    [
        (RANDOM, {"error": 0.5}, "random functions'"),
        (SIGN, {"error": 0.7}, "plain signs'"),
        (SIGN, {"after": 0.53}, "fitted codes minus plain signs"),
    ],
)
def test_each_rule_of_codes_can_fail(kind: str, changed: dict, asked: str) -> None:
    one = replace(CARD, codes={**CARD.codes, kind: replace(CARD.codes[kind], **changed)})
    failed = [c.asked for c in judge(ENERGIES, SOFTMAX, [one]) if c.decides and not c.passed]
    assert len(failed) == 1 and asked in failed[0]


def test_each_rule_of_energy_can_fail() -> None:
    off = [(ENERGIES[0][0], (0.54, 0.5, 2.5))]
    failed = [c.asked for c in judge(off, SOFTMAX, [CARD]) if c.decides and not c.passed]
    assert failed == ["counts off the published table, most"]
    low = replace(SOFTMAX, pj=8e9)
    failed = [c.asked for c in judge(ENERGIES, low, [CARD]) if c.decides and not c.passed]
    assert failed == ["energy of B0 in units of softmax attention's"]


@pytest.mark.slow
class TestEvidence(EvidenceContract):
    @staticmethod
    @functools.cache
    def made() -> Evidence:
        return run(quick=True)

    def evidence(self) -> Evidence:
        return self.made()
