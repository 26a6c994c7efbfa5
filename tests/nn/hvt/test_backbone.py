import functools
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import sartor.nn.backbones
from sartor.core import DataError, FamilyError
from sartor.measure import count_flops
from sartor.nn import load_family
from sartor.nn.hvt.backbone import HVT, official_key
from sartor.testing import BackboneContract

TINY = {
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 4,
    "num_heads": 2,
    "pool_every": 2,
    "drop_path_rate": 0.0,
}
SIZES = {
    "hvt_tiny_0": (192, None, (196,), 5_717_032, 1_246_563_840),
    "hvt_tiny_1": (192, 12, (196, 97), 5_735_656, 642_299_520),
    "hvt_small_0": (384, None, (196,), 22_049_896, 4_574_026_752),
    "hvt_small_1": (384, 12, (196, 97), 22_087_144, 2_402_020_608),
    "hvt_small_2": (384, 6, (196, 97, 48), 22_105_576, 1_941_216_768),
    "hvt_small_3": (384, 4, (196, 97, 48, 23), 22_114_408, 1_620_095_232),
    "hvt_small_4": (384, 3, (196, 97, 48, 23, 11), 22_118_632, 1_393_640_448),
    "scale_hvt_tiny_4": (384, 3, (196, 97, 48, 23, 11), 22_118_632, 1_393_640_448),
}


class TestHVT(BackboneContract):
    name = "hvt_small_2"
    kwargs: ClassVar = TINY
    has_maps = False


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize("name", SIZES)
def test_counts_of_the_card(name: str) -> None:
    dim, _, lengths, params, macs = SIZES[name]
    model = on_meta(name)
    assert (model.embed_dim, model.size.lengths) == (dim, lengths)
    assert sum(p.numel() for p in model.parameters()) == params
    assert model.macs() == macs
    assert count_flops(model, torch.zeros(1, 3, 224, 224, device="meta")) == 2 * macs


def test_parameters_that_pools_add() -> None:
    bare, one, four = (SIZES[f"hvt_small_{i}"][3] for i in (0, 1, 4))
    assert one - bare == 97 * 384 == 37_248
    assert four - bare == (97 + 48 + 23 + 11) * 384 == 68_736


def test_all_are_listed() -> None:
    assert {*timm.list_models("*hvt*")} == {*SIZES} <= {*sartor.nn.backbones.BACKBONES}


def test_without_pools_it_is_timms_transformer() -> None:
    from timm.models.vision_transformer import VisionTransformer

    theirs = VisionTransformer(
        img_size=32,
        patch_size=4,
        embed_dim=16,
        depth=3,
        num_heads=2,
        num_classes=5,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
    ).eval()
    ours = HVT(5, img_size=32, patch_size=4, embed_dim=16, depth=3, num_heads=2).eval()
    rename = functools.partial(official_key, pool_every=None)
    ours.load_state_dict({rename(key): value for key, value in theirs.state_dict().items()})
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_pools_of_one_token_change_nothing() -> None:
    kwargs = {k: v for k, v in TINY.items() if k != "pool_every"}
    torch.manual_seed(0)
    plain = HVT(5, **kwargs).eval()
    pooled = HVT(5, **kwargs, pool_every=2, pool_kernel=1, pool_stride=1).eval()
    state = {}
    for key, value in plain.state_dict().items():
        official = key.replace("stages.0.blocks", "blocks")
        state[official_key(official, pool_every=2)] = value
    for key, value in pooled.state_dict().items():
        if "downsample" in key:
            state[key] = torch.zeros_like(value)
    pooled.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(plain(x), pooled(x))


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' checkpoint, written down from their module."""
    dim, every, lengths, *_ = SIZES[name]
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 196, dim),
        "patch_embed.proj.weight": (dim, 3, 16, 16),
        "patch_embed.proj.bias": (dim,),
    }
    remaining = iter(lengths[1:])
    for block in range(12):
        key = f"blocks.{block}"
        if every and block % every == 0:
            shapes[f"{key}.pos_embed"] = (1, next(remaining), dim)
        for layer, inputs, outputs in (
            ("attn.qkv", dim, 3 * dim),
            ("attn.proj", dim, dim),
            ("mlp.fc1", dim, 4 * dim),
            ("mlp.fc2", 4 * dim, dim),
        ):
            shapes[f"{key}.{layer}.weight"] = (outputs, inputs)
            shapes[f"{key}.{layer}.bias"] = (outputs,)
        for norm in ("norm1", "norm2"):
            shapes[f"{key}.{norm}.weight"] = shapes[f"{key}.{norm}.bias"] = (dim,)
    shapes["norm.weight"] = shapes["norm.bias"] = (dim,)
    shapes["head.weight"], shapes["head.bias"] = (1000, dim), (1000,)
    return shapes


@pytest.mark.parametrize("name", SIZES)
def test_official_names_and_shapes_fit(name: str) -> None:
    rename = sartor.nn.backbones.BACKBONES[name].official_key
    renamed = {rename(key): shape for key, shape in official_shapes(name).items()}
    assert renamed == {k: tuple(v.shape) for k, v in on_meta(name).state_dict().items()}


def test_official_weights_load_into_another_size(tmp_path: Path) -> None:
    shapes = official_shapes("hvt_tiny_1")
    index = {key: float(i) for i, key in enumerate(shapes)}
    file = tmp_path / "official.safetensors"
    safetensors.torch.save_file({k: torch.full(s, index[k]) for k, s in shapes.items()}, file)
    overlay = {"file": str(file)}
    larger = timm.create_model(
        "hvt_tiny_1", img_size=256, pretrained=True, pretrained_cfg_overlay=overlay
    ).requires_grad_(False)
    assert larger.pos_embed.shape == (1, 256, 192) and larger.size.lengths == (256, 127)
    pool = larger.stages[1].downsample.pos_embed
    assert torch.allclose(pool, torch.tensor(index["blocks.0.pos_embed"]))
    same = load_family([f"hvt_tiny_1@{file}"]).models[0].requires_grad_(False)
    for model in (larger, same):
        weight = model.stages[1].blocks[10].mlp.fc2.weight
        assert weight[0, 0].item() == index["blocks.11.mlp.fc2.weight"]
        assert model.stages[0].blocks[0].attn.qkv.bias[0].item() == index["blocks.0.attn.qkv.bias"]


def test_where_pools_are() -> None:
    """Block 0 is pooled first, then every third one."""
    assert HVT(5, **{**TINY, "depth": 7, "pool_every": 3}).size.pools == (0, 3, 6)
    depths = [len(stage.blocks) for stage in on_meta("hvt_small_4").stages]
    assert depths == [1, 3, 3, 3, 2]
    assert [len(stage.blocks) for stage in on_meta("hvt_small_1").stages] == [1, 11]


def test_positions_do_not_decay() -> None:
    names = timm.create_model("hvt_small_2", **TINY).no_weight_decay()
    assert names == {"pos_embed", "stages.1.downsample.pos_embed", "stages.2.downsample.pos_embed"}


def test_bad_inputs() -> None:
    model = timm.create_model("hvt_small_2", **TINY)
    with pytest.raises(DataError, match="images of 32 x 32 and was given"):
        model(torch.zeros(1, 3, 64, 32))
    with pytest.raises(FamilyError, match="hvt_small_2 has no maps to give"):
        timm.create_model("hvt_small_2", features_only=True)
    with pytest.raises(FamilyError, match="square images, got an img_size of 64 x 32"):
        HVT(img_size=(64, 32))
    with pytest.raises(FamilyError, match="pools by avg, got 'token'"):
        HVT(global_pool="token")
    with pytest.raises(FamilyError, match="pool after block 6 gets 1 tokens"):
        HVT(img_size=32, patch_size=8, depth=12, pool_every=2)
