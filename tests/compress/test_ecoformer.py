import pytest
import timm
import torch
from torch import nn

from sartor.compress.ecoformer import (
    EcoConfig,
    convert_attention_,
    eco_from_attention,
    hash_attention_,
)
from sartor.core import DataError, NoEffectError, RecipeError
from sartor.nn import tiny_vit
from sartor.nn.ecoformer.attention import EcoAttention

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
QUICK = {"topk": 5, "num_anchors": 9, "steps": 2}


def model() -> nn.Module:
    torch.manual_seed(0)
    return tiny_vit(embed_dim=32, depth=2, num_heads=4).eval()


def test_weights_stay_and_keys_go() -> None:
    plain, hashed = model(), model()
    report = hash_attention_(hashed, IMAGES, EcoConfig(**QUICK))
    for before, after in zip(plain.blocks, hashed.blocks, strict=True):
        assert isinstance(after.attn, EcoAttention) and bool(after.attn.hash.is_fitted)
        assert torch.equal(after.attn.qk.weight, before.attn.qkv.weight[:32])
        assert torch.equal(after.attn.v.bias, before.attn.qkv.bias[64:])
        assert torch.equal(after.attn.proj.weight, before.attn.proj.weight)
    assert report.before["params"] - report.after["params"] == 2 * (32 * 32 + 32)
    assert len(report.skipped) == 2 and "blocks.0.attn: affinity error" in report.skipped[0]


def test_queries_and_keys_meet_in_the_middle() -> None:
    attention = model().blocks[0].attn
    eco = eco_from_attention(attention, EcoConfig(share_qk="mean"))
    expected = (attention.qkv.weight[:32] + attention.qkv.weight[32:64]) / 2
    assert torch.allclose(eco.qk.weight, expected)


def test_many_tokens_cost_less_energy() -> None:
    wide = tiny_vit(patch_size=1, depth=1)
    report = hash_attention_(wide, IMAGES, EcoConfig(steps=1))
    assert report.after["energy_pj"] < report.before["energy_pj"]
    assert report.after["flops"] < report.before["flops"]


def test_a_pyramid_with_spatial_reduction() -> None:
    pyramid = timm.create_model(
        "pvt_v2_b0",
        embed_dims=(8, 8, 8, 8),
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1),
        num_classes=3,
    )
    config = EcoConfig(layers=("stages.0.blocks.0.attn",), **QUICK)
    kv = pyramid.stages[0].blocks[0].attn.kv.weight
    report = hash_attention_(pyramid, torch.randn(2, 3, 32, 32), config)
    assert torch.equal(pyramid.stages[0].blocks[0].attn.v.weight, kv[8:])
    assert "stages.1.blocks.0.attn: it is not asked for" in report.skipped
    with torch.no_grad():
        assert pyramid.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_it_is_the_same_every_time() -> None:
    one, two = model(), model()
    torch.manual_seed(1)
    hash_attention_(one, IMAGES, EcoConfig(**QUICK))
    hash_attention_(two, IMAGES, EcoConfig(**QUICK))
    with torch.no_grad():
        assert torch.equal(one(IMAGES), two(IMAGES))


def test_attentions_that_stay_are_listed() -> None:
    mixed = model()
    mixed.blocks[1].attn.q_norm = nn.LayerNorm(8)
    report = hash_attention_(mixed, IMAGES, EcoConfig(**QUICK))
    assert "blocks.1.attn: it normalises or gates inside" in report.skipped


def test_what_cannot_be_converted() -> None:
    with pytest.raises(NoEffectError, match="no attention of timm"):
        hash_attention_(nn.Linear(4, 2), torch.zeros(2, 4), EcoConfig())
    with pytest.raises(RecipeError, match=r"no attention 'blocks.0.atn'; did you mean"):
        hash_attention_(model(), IMAGES, EcoConfig(layers=("blocks.0.atn",)))
    with pytest.raises(DataError, match=r"blocks.0.attn: 17 tokens are too few for 25 anchors"):
        hash_attention_(model(), IMAGES, EcoConfig(num_anchors=25))


@pytest.mark.parametrize(
    "config",
    [
        {"share_qk": "k"},
        {"bias": "both"},
        {"num_bits": 0},
        {"num_anchors": 0},
        {"topk": 0},
        {"steps": 0},
        {"images": 0},
        {"lr": -1.0},
    ],
)
def test_settings_that_cannot_be(config: dict) -> None:
    with pytest.raises(RecipeError, match="EcoFormer's"):
        EcoConfig(**config)


@pytest.mark.parametrize(
    "plan",
    [{"blocks.9.attn": 5}, {"blocks.0": 5}, {"blocks.0.attn": 0}, {"blocks.0.attn": "5"}],
)
def test_tampered_plans(plan: dict) -> None:
    with pytest.raises(RecipeError, match="fit again"):
        convert_attention_(model(), plan, EcoConfig())


def test_few_tokens_get_as_many_anchors_as_there_are() -> None:
    """Of its own accord, and any hash of a class token and a map of 4 x 4."""
    hashed = model()
    hash_attention_(hashed, IMAGES, EcoConfig(steps=1))
    assert [block.attn.hash.num_anchors for block in hashed.blocks] == [17, 17]
    wide = tiny_vit(patch_size=1, depth=1)
    hash_attention_(wide, IMAGES, EcoConfig(steps=1))
    assert wide.blocks[0].attn.hash.num_anchors == 25
