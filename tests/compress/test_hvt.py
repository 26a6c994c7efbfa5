import pytest
import torch
from torch import nn

from sartor.compress.hvt import PooledBlock, TokenPoolConfig, install_pools_, pool_tokens_
from sartor.core import FamilyError, NoEffectError, RecipeError
from sartor.measure import count_flops
from sartor.nn import tiny_vit
from sartor.testing import tiny_resnet_family

EXAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    torch.manual_seed(0)
    return tiny_vit(embed_dim=16, depth=4, num_heads=2).eval()


def test_pools_of_one_token_change_nothing() -> None:
    plain, pooled = model(), model()
    report = pool_tokens_(pooled, EXAMPLE, TokenPoolConfig(every=1, kernel_size=1, stride=1))
    assert report.before["flops"] == report.after["flops"]
    with torch.no_grad():
        assert torch.equal(plain(EXAMPLE), pooled(EXAMPLE))


def test_the_sequence_shrinks_behind_the_chosen_blocks() -> None:
    """16 patches and a class token: 8, then 4 windows of 3 are left with a stride of 2."""
    pooled = model()
    report = pool_tokens_(pooled, EXAMPLE, TokenPoolConfig(after=(0, 2)))
    assert [isinstance(block, PooledBlock) for block in pooled.blocks] == [True, False, True, False]
    assert (report.before["tokens"], report.after["tokens"]) == (17, 4)
    assert report.after["flops"] < report.before["flops"]
    assert report.after["params"] - report.before["params"] == (7 + 3) * 16
    assert pooled(EXAMPLE).shape == (2, 10)


def test_cost_is_that_of_the_shorter_sequence() -> None:
    """12 N D^2 + 2 N^2 D multiply-adds a block, of 17 tokens and of 8."""
    plain, pooled, d = model(), model(), 16
    pool_tokens_(pooled, EXAMPLE, TokenPoolConfig(after=(0,)))
    saved = 3 * (12 * (17 - 8) * d**2 + 2 * (17**2 - 8**2) * d)
    assert count_flops(plain, EXAMPLE) - count_flops(pooled, EXAMPLE) == 2 * saved


def test_dropping_the_class_token_is_hvts_way() -> None:
    """The pooled model is HVT, weight for weight."""
    from sartor.nn.hvt.backbone import HVT, official_key

    pooled = model()
    report = pool_tokens_(pooled, EXAMPLE, TokenPoolConfig(every=2, keep_class_token=False))
    assert "1 tokens in front of the patches: dropped" in report.skipped[0]
    ours = HVT(10, 1, 8, patch_size=2, embed_dim=16, depth=4, num_heads=2, pool_every=2).eval()
    state = {}
    for key, value in pooled.state_dict().items():
        official = key.replace(".block.", ".").replace(".pool.pos_embed", ".pos_embed")
        state[official_key(official, pool_every=2)] = value
    ours.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(ours(EXAMPLE), pooled(EXAMPLE), atol=1e-6)


def test_the_class_token_is_not_pooled() -> None:
    pooled = model()
    pool_tokens_(pooled, EXAMPLE, TokenPoolConfig(after=(1,)))
    x = torch.randn(2, 17, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(pooled.blocks[1](x)[:, 0], pooled.blocks[1].block(x)[:, 0])


def test_only_one_way_to_say_where() -> None:
    with pytest.raises(RecipeError, match="not both"):
        TokenPoolConfig(every=2, after=(1,))
    assert TokenPoolConfig(after=(2, 0, 2)).blocks(4) == (0, 2)
    assert TokenPoolConfig().blocks(4) == (1,)
    assert TokenPoolConfig(every=12).blocks(12) == (0,)


@pytest.mark.parametrize(
    "config",
    [{"every": 0}, {"kernel_size": 0}, {"stride": 0}, {"after": (-1,)}, {"mode": "min"}],
)
def test_settings_that_cannot_be(config: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="Pooling takes"):
        TokenPoolConfig(**config)


def test_what_cannot_be_pooled() -> None:
    with pytest.raises(NoEffectError, match="list of blocks that give tokens"):
        pool_tokens_(tiny_resnet_family().models[0], torch.zeros(1, 1, 32, 32), TokenPoolConfig())
    with pytest.raises(RecipeError, match="after block 7 and the model has 4"):
        pool_tokens_(model(), EXAMPLE, TokenPoolConfig(after=(7,)))
    with pytest.raises(FamilyError, match="at least 3 tokens, got 1"):
        pool_tokens_(model(), EXAMPLE, TokenPoolConfig(every=1))
    pooled = model()
    pool_tokens_(pooled, EXAMPLE, TokenPoolConfig())
    with pytest.raises(NoEffectError, match="no grid of 4 x 4 patches"):
        pool_tokens_(pooled, EXAMPLE, TokenPoolConfig())


@pytest.mark.parametrize(
    "plan",
    [
        {"lengths": {"9": [16, 16]}, "prefix": 1},
        {"lengths": {"0": [16]}, "prefix": 1},
        {"lengths": {"0": [16, "16"]}, "prefix": 1},
        {"lengths": {"0": [16, 16]}},
    ],
)
def test_tampered_plans(plan: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        install_pools_(model(), plan, TokenPoolConfig())
