import functools
from dataclasses import replace

import pytest
import torch

from sartor.nn.bamboo.over_smoothing import Smoothness
from sartor.reproduce.bamboo import LONGER, MASKED, PLAIN, TUNED, judge, losses, run
from sartor.reproduce.bamboo_training import DEEP, WIDE, Trained, uniform_attention
from sartor.reproduce.evidence import Evidence
from sartor.testing import EvidenceContract


def layers(cosine: float) -> list[Smoothness]:
    """Twelve, of which the last four count."""
    return [
        Smoothness(
            layer=i,
            cosine=cosine if i >= 8 else 9.0,
            centred_cosine=cosine / 10 if i >= 8 else 9.0,
            high_over_low=1.0,
            rate=1.0,
            spectrum=(0.0,),
        )
        for i in range(12)
    ]


def trained(net, way: str, cosine: float, accuracy: float) -> Trained:
    return Trained(
        net=net,
        way=way,
        layers=layers(cosine),
        accuracy=accuracy,
        seconds=4.0 if net == DEEP else 2.0,
        surgery=(0.6, 0.7, 0.8, 0.9) if net == DEEP else (),
    )


#: what the card measured
CARD = {
    (net.name, way): trained(net, way, cosine, accuracy)
    for net in (DEEP, WIDE)
    for way, cosine, accuracy in (
        (MASKED, 0.94, float("nan")),
        (TUNED, 0.65, 0.322 if net == DEEP else 0.30),
        (PLAIN, 0.67, 0.326 if net == DEEP else 0.33),
        (LONGER, 0.70, 0.383),
    )
}


def test_the_cards_figures_pass() -> None:
    checks = judge([CARD])
    assert [c.passed for c in checks if c.decides] == [True, True, True]
    assert [c.passed for c in checks if not c.decides] == [
        *(True, True, False, True, False),
        *(False, False),
    ]
    told = losses([CARD])
    assert len(told) == 1 and "2.0 times" in told[0]


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({"layers": layers(0.99)}, "centred cosine"),
        ({"surgery": (0.6, 0.9, 0.6, 0.9)}, "smallest rise"),
    ],
)
def test_each_rule_can_fail(changed: dict, asked: str) -> None:
    """One seed that fails is enough, but for the mean of the control."""
    key = (DEEP.name, TUNED)
    worse = {**CARD, key: replace(CARD[key], **changed)}
    failed = [c.asked for c in judge([CARD, worse]) if c.decides and not c.passed]
    assert len(failed) == 1 and failed[0].startswith(asked)


def test_uniform_attention_is_uniform_inside_alone() -> None:
    model = DEEP.make(0).eval()
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(1))
    last, first = model.blocks[-1].attn, model.blocks[0].attn
    with torch.no_grad():
        before, kept = model(images), first(tokens)
        with uniform_attention(model, 3):
            mixed = last(tokens)
            assert torch.equal(first(tokens), kept)
        assert torch.allclose(mixed, mixed[:, :1].expand_as(mixed), atol=1e-6)
        values = last.qkv(tokens)[..., 2 * 32 :].mean(dim=1)
        assert torch.allclose(mixed[:, 0], last.proj(values), atol=1e-6)
        assert torch.equal(model(images), before)


def test_both_nets_have_one_budget() -> None:
    assert DEEP.depth * DEEP.embed_dim**2 == WIDE.depth * WIDE.embed_dim**2 == 8_192


@pytest.mark.slow
class TestEvidence(EvidenceContract):
    @staticmethod
    @functools.cache
    def made() -> Evidence:
        return run(quick=True)

    def evidence(self) -> Evidence:
        return self.made()
