from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import sartor.nn.backbones  # noqa: F401 (registers)
from sartor.core import DataError, FamilyError
from sartor.nn import load_family
from sartor.nn.lit.deformable_merging import DeformableTokenMerging
from sartor.nn.litv2.backbone import LITv2, official_key
from sartor.testing import BackboneContract

Count = Callable[[nn.Module, int], int]
TINY = {
    "embed_dims": (8, 12, 16, 24),
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 1, 4, 4),
    "alpha": 0.5,
    "drop_path_rate": 0.0,
}
SIZES = {
    "litv2_small": ((96, 192, 384, 768), (2, 2, 6, 2), (10, 2)),
    "litv2_medium": ((96, 192, 384, 768), (2, 2, 18, 2), (10, 2)),
    "litv2_base": ((128, 256, 512, 1024), (2, 2, 18, 2), (14, 2)),
    "litv2_base_384": ((128, 256, 512, 1024), (2, 2, 18, 2), (14, 2)),
}


class TestLITv2(BackboneContract):
    name = "litv2_small"
    kwargs: ClassVar = TINY
    input_shape = (3, 64, 64)


def on_meta(name: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("litv2_small", 27_844_000),
        ("litv2_medium", 48_830_368),
        ("litv2_base", 86_520_704),
        ("litv2_base_384", 86_520_704),
    ],
)
def test_parameters_of_the_card(name: str, params: int) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == params


@pytest.mark.parametrize(
    ("alpha", "params", "counted"),
    [
        (0.0, 28_089_760, 3_965_462_076),
        pytest.param(0.2, 27_844_000, 3_880_714_812, marks=pytest.mark.slow),
        pytest.param(0.4, 27_696_544, 3_815_235_132, marks=pytest.mark.slow),
        (0.5, 27_647_392, 3_769_023_036),
        pytest.param(0.7, 27_696_544, 3_742_078_524, marks=pytest.mark.slow),
        (0.9, 27_844_000, 3_734_401_596),
        (1.0, 28_089_760, 3_745_992_252),
    ],
)
def test_alpha_of_the_card(alpha: float, params: int, counted: int, official_count: Count) -> None:
    model = on_meta("litv2_small", alpha=alpha)
    assert sum(p.numel() for p in model.parameters()) == params
    assert official_count(model, 224) == counted


@pytest.mark.parametrize(
    ("name", "size", "counted"),
    [
        pytest.param("litv2_medium", 224, 7_479_237_180, marks=pytest.mark.slow),
        ("litv2_base", 224, 13_193_561_148),
        pytest.param("litv2_base_384", 384, 39_709_486_528, marks=pytest.mark.slow),
    ],
)
def test_operations_of_the_card(name: str, size: int, counted: int, official_count: Count) -> None:
    assert official_count(on_meta(name), size) == counted


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' checkpoint, written down from their modules."""
    dims, depths, (low, high) = SIZES[name]
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(key: str, inputs: int, outputs: int) -> None:
        shapes[f"{key}.weight"], shapes[f"{key}.bias"] = (outputs, inputs), (outputs,)

    def norm(key: str, dim: int) -> None:
        shapes[f"{key}.weight"] = shapes[f"{key}.bias"] = (dim,)

    shapes["patch_embed.proj.weight"] = (dims[0], 3, 4, 4)
    shapes["patch_embed.proj.bias"] = (dims[0],)
    norm("patch_embed.norm", dims[0])
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            if i >= 2:
                norm(f"{block}.norm1", dim)
                l_dim, h_dim = (32 * low, 32 * high) if i == 2 else (dim, 0)
                linear(f"{block}.attn.l_q", dim, l_dim)
                linear(f"{block}.attn.l_kv", dim, 2 * l_dim)
                linear(f"{block}.attn.l_proj", l_dim, l_dim)
                if h_dim:
                    linear(f"{block}.attn.h_qkv", dim, 3 * h_dim)
                    linear(f"{block}.attn.h_proj", h_dim, h_dim)
            norm(f"{block}.norm2", dim)
            linear(f"{block}.mlp.fc1", dim, 4 * dim)
            shapes[f"{block}.mlp.dwconv.dwconv.weight"] = (4 * dim, 1, 3, 3)
            shapes[f"{block}.mlp.dwconv.dwconv.bias"] = (4 * dim,)
            linear(f"{block}.mlp.fc2", 4 * dim, dim)
        if i < 3:
            merge = f"layers.{i}.downsample"
            shapes[f"{merge}.dconv.weight"] = (2 * dim, dim, 2, 2)
            shapes[f"{merge}.dconv.bias"] = (2 * dim,)
            shapes[f"{merge}.dconv.conv_offset.weight"] = (8, dim, 2, 2)
            shapes[f"{merge}.dconv.conv_offset.bias"] = (8,)
            norm(f"{merge}.norm_layer", 2 * dim)
            shapes[f"{merge}.norm_layer.running_mean"] = (2 * dim,)
            shapes[f"{merge}.norm_layer.running_var"] = (2 * dim,)
            shapes[f"{merge}.norm_layer.num_batches_tracked"] = ()
    norm("norm", dims[-1])
    linear("head", dims[-1], 1000)
    return shapes


@pytest.mark.parametrize("name", SIZES)
def test_official_names_and_shapes_fit(name: str) -> None:
    renamed = {official_key(key): shape for key, shape in official_shapes(name).items()}
    assert renamed == {k: tuple(v.shape) for k, v in on_meta(name).state_dict().items()}


def test_official_weights_load_where_they_belong(tmp_path: Path) -> None:
    """A file with official names loads through timm and through ``name@file``; values are told
    apart.
    """
    shapes = official_shapes("litv2_small")
    state = {
        key: torch.full(shape, float(index)) if shape else torch.tensor(index)
        for index, (key, shape) in enumerate(shapes.items())
    }
    file = tmp_path / "official.safetensors"
    safetensors.torch.save_file(state, file)
    overlay = {"file": str(file)}
    by_timm = timm.create_model("litv2_small", pretrained=True, pretrained_cfg_overlay=overlay)
    by_sartor = load_family([f"litv2_small@{file}"]).models[0]
    index = {key: float(i) for i, key in enumerate(shapes)}
    for model in (by_timm, by_sartor):
        model.requires_grad_(False)
        block = model.stages[2].blocks[3]
        assert float(block.attn.hi_qkv.weight[0, 0]) == index["layers.2.blocks.3.attn.h_qkv.weight"]
        assert block.attn.lo_kv.bias[0].item() == index["layers.2.blocks.3.attn.l_kv.bias"]
        assert (
            model.stages[1].downsample.conv.weight[0, 0, 0, 0].item()
            == index["layers.0.downsample.dconv.weight"]
        )
        assert model.head.bias[0].item() == index["head.bias"]


def test_features_have_the_strides_of_a_pyramid() -> None:
    model = timm.create_model("litv2_small", features_only=True)
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert model.feature_info.channels() == [96, 192, 384, 768]
    with torch.no_grad():
        maps = model.eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[-2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_some_maps_alone() -> None:
    model = timm.create_model("litv2_small", features_only=True, out_indices=(1, 2), **TINY)
    maps = model.eval()(torch.zeros(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 12, 8, 8), (2, 16, 4, 4)]


def test_any_size_at_call_time() -> None:
    model = timm.create_model("litv2_small", num_classes=3, **TINY).eval()
    for size in ((32, 32), (64, 96), (128, 32)):
        assert model(torch.zeros(1, 3, *size)).shape == (1, 3)


def test_stages_are_those_of_the_paper() -> None:
    model = on_meta("litv2_small")
    kinds = [[b.attn is not None for b in stage.blocks] for stage in model.stages]
    assert kinds == [[False] * 2, [False] * 2, [True] * 6, [True] * 2]
    third, fourth = model.stages[2].blocks[0].attn, model.stages[3].blocks[0].attn
    assert (third.hi_heads, third.lo_heads, third.window_size) == (2, 10, 2)
    assert (fourth.hi_heads, fourth.lo_heads, fourth.window_size) == (0, 24, 1)
    assert [isinstance(s.downsample, DeformableTokenMerging) for s in model.stages] == [
        False,
        *[True] * 3,
    ]


def test_how_weights_start() -> None:
    torch.manual_seed(0)
    model = timm.create_model("litv2_small")
    block = model.stages[2].blocks[0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.mlp.dwconv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.03)
    assert not block.mlp.fc1.bias.any() and not block.mlp.dwconv.bias.any()
    assert not model.stages[1].downsample.offset.weight.any()


def test_drop_path_rises_over_all_blocks() -> None:
    model = on_meta("litv2_small")
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for s in model.stages for b in s.blocks]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(12)])


def test_layers_are_sorted_for_layer_decay() -> None:
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(timm.create_model("litv2_small", **TINY), layer_decay=0.5)
    scales = sorted({group["lr_scale"] for group in groups})
    assert len(scales) > 5 and scales[-1] == 1.0


@pytest.mark.parametrize("size", [(33, 32), (32, 48), (16, 16)])
def test_images_that_cannot_be_halved(size: tuple[int, int]) -> None:
    model = timm.create_model("litv2_small", **TINY)
    with pytest.raises(DataError, match="multiples of 32"):
        model(torch.zeros(2, 3, *size))


def test_settings_that_cannot_be() -> None:
    with pytest.raises(FamilyError, match="one entry a stage"):
        LITv2((8, 16), (1, 1, 1), (1, 1), (0, 2))
    with pytest.raises(FamilyError, match="pools by avg, got 'max'"):
        timm.create_model("litv2_small", global_pool="max", **TINY)
    model = timm.create_model("litv2_small", **TINY)
    with pytest.raises(FamilyError, match="This LITv2 pools by avg"):
        model.reset_classifier(3, global_pool="token")
    with pytest.raises(DataError, match="NCHW or NHWC"):
        model.forward_intermediates(torch.zeros(1, 3, 32, 32), output_fmt="NLC")


def test_there_are_no_weights_to_download() -> None:
    with pytest.raises(FamilyError, match="could not be loaded with its published weights"):
        load_family(["litv2_small"], pretrained=True)
