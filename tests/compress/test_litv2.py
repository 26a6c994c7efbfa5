import copy

import pytest
import timm
import torch
from torch import nn

from sartor.compress.litv2 import HiLoConfig, hilo_from_attention, install_hilo_, swap_attention_
from sartor.core import FamilyError, NoEffectError, RecipeError
from sartor.nn import tiny_vit
from sartor.nn.litv2.hilo import HiLoAttention
from sartor.nn.litv2.token_hilo import TokenHiLo
from sartor.testing import tiny_swin_family


def model() -> nn.Module:
    torch.manual_seed(0)
    return tiny_vit(embed_dim=32, depth=3, num_heads=4).eval()


EXAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_window_of_one_changes_nothing() -> None:
    plain, swapped = model(), model()
    report = swap_attention_(swapped, EXAMPLE, HiLoConfig(window_size=1))
    assert report.before == report.after
    assert all(isinstance(block.attn, TokenHiLo) for block in swapped.blocks)
    with torch.no_grad():
        assert torch.allclose(plain(EXAMPLE), swapped(EXAMPLE), atol=1e-6)


def test_what_the_report_says_is_lost_is_what_is_not_there() -> None:
    plain, swapped = model(), model()
    report = swap_attention_(swapped, EXAMPLE, HiLoConfig(alpha=0.5))
    assert report.after["params"] < report.before["params"]
    assert report.after["flops"] < report.before["flops"]
    kept = sum(
        layer.weight.square().sum().item()
        for block in swapped.blocks
        for layer in (block.attn.attn.hi_proj, block.attn.attn.lo_proj)
    )
    all_ = sum(block.attn.proj.weight.square().sum().item() for block in plain.blocks)
    assert report.before["output_norm"] == pytest.approx(all_**0.5)
    assert report.after["output_norm"] == pytest.approx(kept**0.5)
    assert len(report.skipped) == 3 and "blocks.0.attn: lost 4" in report.skipped[0]


def test_heads_keep_their_weights() -> None:
    """With an output layer that does not cross the groups, on one window, nothing is lost."""
    attention = model().blocks[0].attn
    with torch.no_grad():
        attention.proj.weight[:16, 16:] = 0
        attention.proj.weight[16:, :16] = 0
    layer, lost = hilo_from_attention(attention, HiLoConfig(window_size=4, alpha=0.5))
    assert lost == pytest.approx(0, abs=1e-6)
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(layer.hi_fi(x), attention(x)[..., :16], atol=1e-6)
        assert torch.allclose(layer.lo_fi(x, x), attention(x)[..., 16:], atol=1e-6)


def test_heads_are_chosen_so_that_most_stays() -> None:
    """No other choice of the heads that look within windows would lose less."""
    import itertools

    attention = model().blocks[0].attn
    nn.init.normal_(attention.proj.weight)
    _, lost = hilo_from_attention(attention, HiLoConfig(alpha=0.5))
    squares = attention.proj.weight.detach().square().unflatten(1, (4, 8)).sum(dim=2)  # (32, heads)
    kept = [
        sum(float(squares[:16, h].sum() if h in high else squares[16:, h].sum()) for h in range(4))
        for high in itertools.combinations(range(4), 2)
    ]
    assert lost == pytest.approx(1 - max(kept) / float(squares.sum()), abs=1e-6)


def test_a_model_without_class_token() -> None:
    plain = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        depth=2,
        num_classes=3,
        class_token=False,
        global_pool="avg",
    ).eval()
    swapped = copy.deepcopy(plain)
    report = swap_attention_(swapped, torch.zeros(1, 3, 32, 32), HiLoConfig(alpha=0.5))
    assert swapped.blocks[0].attn.num_prefix_tokens == 0
    assert isinstance(swapped.blocks[1].attn.attn, HiLoAttention)
    assert report.after["flops"] < report.before["flops"]


def test_attentions_that_stay_are_listed() -> None:
    mixed = model()
    mixed.blocks[1].attn.q_norm = nn.LayerNorm(8)
    report = swap_attention_(mixed, EXAMPLE, HiLoConfig(alpha=0.5))
    assert "blocks.1.attn: it normalises or gates inside" in report.skipped
    assert not isinstance(mixed.blocks[1].attn, TokenHiLo)


def test_pruned_heads_stay() -> None:
    from sartor.compress.prune import PruneConfig, prune_

    cut = model()
    prune_(cut, EXAMPLE, PruneConfig(ratio=0.5))
    with pytest.raises(NoEffectError, match="heads are fewer than its channels"):
        swap_attention_(cut, EXAMPLE, HiLoConfig())


def test_gradients_reach_the_kept_weights() -> None:
    swapped = model()
    swap_attention_(swapped, EXAMPLE, HiLoConfig(alpha=0.5))
    swapped(EXAMPLE).square().sum().backward()
    assert all(p.grad is not None for p in swapped.parameters())


def test_models_without_plain_attention() -> None:
    with pytest.raises(NoEffectError, match="no attention of timm"):
        swap_attention_(nn.Linear(4, 2), torch.zeros(1, 4), HiLoConfig())
    swin = tiny_swin_family().models[0]
    with pytest.raises(NoEffectError, match="no attention of timm"):
        swap_attention_(swin, torch.zeros(1, 1, 16, 16), HiLoConfig())
    with pytest.raises(FamilyError, match="no grids"):
        block = model().blocks[0]
        swap_attention_(block, torch.zeros(1, 17, 32), HiLoConfig())


@pytest.mark.parametrize("config", [{"window_size": 0}, {"alpha": 2}, {"alpha": -0.5}])
def test_settings_that_cannot_be(config: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="window_size of at least 1"):
        HiLoConfig(**config)


@pytest.mark.parametrize(
    "plan",
    [
        {"blocks.9.attn": [4, 4, 1]},
        {"blocks.0": [4, 4, 1]},
        {"blocks.0.attn": [4, 4]},
        {"blocks.0.attn": [4, "4", 1]},
        {"blocks.0.attn": 4},
    ],
)
def test_tampered_plans(plan: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        install_hilo_(model(), plan, HiLoConfig())
