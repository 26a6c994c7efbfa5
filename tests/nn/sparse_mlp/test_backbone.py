from typing import ClassVar

import pytest
import timm
import torch
from torch import nn

import sartor.nn.backbones  # noqa: F401 (registers)
from sartor.core import FamilyError
from sartor.measure import count_flops
from sartor.nn import build
from sartor.nn.sources import seeded
from sartor.nn.sparse_mlp.backbone import sparse_mlp
from sartor.nn.sparse_mlp.mixer import SparseMixerBlock, aux_loss, routing_report
from sartor.testing import BackboneContract

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_sparse": 1}


class TestSparseMlp(BackboneContract):
    name = "sparse_mlp_small"
    kwargs: ClassVar = {**TINY, "token_experts": 3, "channel_experts": 2}
    input_shape = (3, 16, 16)

    def layer(self) -> nn.Module:
        model = self.made()
        nn.init.normal_(model.head.weight, std=0.1)  # timm's Mixers start with zeros
        return model


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize(
    ("name", "params", "depth", "num_sparse"),
    [
        ("sparse_mlp_small", 18_675_224, 8, 2),
        ("sparse_mlp_base", 61_181_864, 12, 2),
        ("sparse_mlp_large", 130_583_376, 14, 6),
    ],
)
def test_parameters_are_the_card_s(name: str, params: int, depth: int, num_sparse: int) -> None:
    model = on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == params
    sparse = [isinstance(block, SparseMixerBlock) for block in model.blocks]
    assert sparse == [False] * (depth - num_sparse) + [True] * num_sparse


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mixer_s16_224", 18_528_264),
        ("mixer_b16_224", 59_880_472),
        ("mixer_l16_224", 208_196_168),
    ],
)
def test_parameters_of_the_mixers_it_is_compared_with(name: str, params: int) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == params


def mixer_params(tokens: int, dim: int, tokens_dim: int, channels_dim: int) -> int:
    over_tokens = 2 * tokens * tokens_dim + tokens_dim + tokens
    return 4 * dim + over_tokens + 2 * dim * channels_dim + channels_dim + dim


def test_dense_blocks_are_timm_s() -> None:
    block = on_meta("sparse_mlp_base").blocks[0]
    assert mixer_params(196, 768, 384, 3072) == 4_876_612
    assert sum(p.numel() for p in block.parameters()) == 4_876_612


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("sparse_mlp_small", 3.958),
        ("sparse_mlp_base", 12.951),
        ("sparse_mlp_large", 15.730),
        ("mixer_s16_224", 3.777),
        ("mixer_b16_224", 12.602),
    ],
)
def test_operations_are_the_card_s(name: str, gmacs: float) -> None:
    """Of one expert for each unit; the card leaves the routers out, 0.01 to 0.1 % of the whole."""
    model = timm.create_model(name).eval()
    routers = sum(
        units * layer.router.weight.numel()
        for block in model.blocks
        if isinstance(block, SparseMixerBlock)
        for layer, units in (
            (block.mlp_tokens, block.norm1.normalized_shape[0]),
            (block.mlp_channels, 2 * 196),
        )
        if layer.router is not None
    )
    macs = count_flops(model, torch.zeros(1, 3, 224, 224)) / 2 - routers
    assert macs / 1e9 == pytest.approx(gmacs, abs=5.1e-4)


def test_without_sparse_blocks_it_is_the_mixer() -> None:
    kwargs = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "num_classes": 3}
    with seeded(0):
        plain = timm.models.mlp_mixer.MlpMixer(num_blocks=2, **kwargs)
    with seeded(0):
        ours = sparse_mlp(depth=2, num_sparse=0, **kwargs)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(v, plain.state_dict()[n]) for n, v in ours.state_dict().items())


def test_it_is_built_for_the_card_s_small_images() -> None:
    model = timm.create_model("sparse_mlp_base", num_classes=10, img_size=32, patch_size=4)
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(AssertionError, match="doesn't match model"):
        model(torch.zeros(1, 3, 64, 64))


def test_the_losses_of_a_whole_model() -> None:
    with seeded(0):
        model = sparse_mlp(**TINY, num_classes=3)
        model.train()(torch.randn(2, 3, 16, 16))
    assert float(aux_loss(model).detach()) > 0
    assert {*routing_report(model)} == {"blocks.1.mlp_tokens"}


def test_recipes_build_it() -> None:
    model = build({"kind": "timm", "name": "sparse_mlp_small", "kwargs": TINY})
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 1000)


@pytest.mark.parametrize(("depth", "num_sparse"), [(0, 0), (2, 3), (2, -1)])
def test_bad_numbers_are_refused(depth: int, num_sparse: int) -> None:
    with pytest.raises(FamilyError, match="0 <= num_sparse <= depth"):
        sparse_mlp(depth=depth, num_sparse=num_sparse)
