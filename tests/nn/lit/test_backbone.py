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
from sartor.measure import count_flops
from sartor.nn import load_family
from sartor.nn.lit.backbone import LIT, official_key
from sartor.testing import BackboneContract

Count = Callable[[nn.Module, int], int]
TINY = {
    "embed_dims": (8, 12, 16, 24),
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 1, 4, 4),
    "drop_path_rate": 0.0,
    "img_size": 64,
}
SIZES = {
    "lit_small": ((96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24)),
    "lit_medium": ((96, 192, 384, 768), (2, 2, 18, 2), (3, 6, 12, 24)),
    "lit_base": ((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32)),
}


class TestLIT(BackboneContract):
    name = "lit_small"
    kwargs: ClassVar = TINY
    input_shape = (3, 64, 64)


class TestLITTi(BackboneContract):
    name = "lit_ti"
    kwargs: ClassVar = TINY
    input_shape = (3, 64, 64)


def on_meta(name: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lit_ti", 19_886_272),
        ("lit_small", 27_973_720),
        ("lit_medium", 49_372_264),
        ("lit_base", 87_292_384),
    ],
)
def test_parameters_of_the_card(name: str, count: int) -> None:
    assert params(on_meta(name)) == count


def test_parameters_of_each_stage() -> None:
    """The paper's stages end with the merging that ours begin with."""
    stages = on_meta("lit_small").stages
    found = [
        params(stage.blocks) + (params(stages[i + 1].downsample) if i < 3 else 0)
        for i, stage in enumerate(stages)
    ]
    assert found == [226_184, 894_728, 11_893_520, 14_183_856]


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("lit_small", 4_081_669_692),
        pytest.param("lit_medium", 8_599_316_028, marks=pytest.mark.slow),
        pytest.param("lit_base", 15_036_676_156, marks=pytest.mark.slow),
    ],
)
def test_operations_of_the_card(name: str, counted: int, official_count: Count) -> None:
    assert official_count(on_meta(name), 224) == counted


def test_operations_of_lit_ti() -> None:
    flops = count_flops(on_meta("lit_ti"), torch.zeros(1, 3, 224, 224, device="meta"))
    assert flops / 2 == pytest.approx(3.6e9, rel=0.02)


def test_attention_everywhere_costs_twice_as_much() -> None:
    """At 56 x 56 the products of one attention alone take 2 * 3136^2 * 96 multiply-adds."""
    image = torch.zeros(1, 3, 224, 224, device="meta")
    lit = count_flops(on_meta("lit_small"), image)
    everywhere = count_flops(on_meta("lit_small", attn_stages=(True,) * 4), image)
    block = 2 * 2 * 3136**2 * 96 + 2 * 4 * 3136 * 96**2
    second = 2 * 2 * 784**2 * 192 + 2 * 4 * 784 * 192**2
    assert everywhere - lit == 2 * (block + second)
    assert lit <= 0.5 * everywhere


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' checkpoints of LIT-S, M and B, from their modules."""
    dims, depths, heads = SIZES[name]
    shapes: dict[str, tuple[int, ...]] = {}
    shapes["patch_embed.proj.weight"] = (dims[0], 3, 4, 4)
    shapes["patch_embed.proj.bias"] = (dims[0],)
    _norm(shapes, "patch_embed.norm", dims[0])
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        for j in range(depth):
            block, side = f"layers.{i}.blocks.{j}", 56 >> i
            if i >= 2:
                attn = f"{block}.attn"
                shapes[f"{attn}.relative_position_bias_table"] = ((2 * side - 1) ** 2, heads[i])
                shapes[f"{attn}.relative_position_index"] = (side**2, side**2)
            _block(shapes, block, dim, 4 * dim, attention=i >= 2)
        if i < 3:
            _merge(shapes, f"layers.{i}.downsample", dim, 2 * dim)
    _norm(shapes, "norm", dims[-1])
    _linear(shapes, "head", dims[-1], 1000)
    return shapes


def official_shapes_ti() -> dict[str, tuple[int, ...]]:
    """The same of LIT-Ti, whose code is another."""
    dims, depths, ratios = (64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, 512)}
    shapes["patch_embed1.proj.weight"], shapes["patch_embed1.proj.bias"] = (64, 3, 4, 4), (64,)
    _norm(shapes, "patch_embed1.norm", 64)
    for i, (dim, depth, ratio) in enumerate(zip(dims, depths, ratios, strict=True)):
        shapes[f"pos_embed{i + 1}"] = (1, (56 >> i) ** 2 + (i == 3), dim)
        if i:
            _merge(shapes, f"patch_embed{i + 1}", dims[i - 1], dim)
        for j in range(depth):
            _block(shapes, f"block{i + 1}.{j}", dim, ratio * dim, attention=i >= 2)
    _norm(shapes, "norm", 512)
    _linear(shapes, "head", 512, 1000)
    return shapes


def _linear(shapes: dict[str, tuple[int, ...]], key: str, inputs: int, outputs: int) -> None:
    shapes[f"{key}.weight"], shapes[f"{key}.bias"] = (outputs, inputs), (outputs,)


def _norm(shapes: dict[str, tuple[int, ...]], key: str, dim: int) -> None:
    shapes[f"{key}.weight"] = shapes[f"{key}.bias"] = (dim,)


def _block(
    shapes: dict[str, tuple[int, ...]], key: str, dim: int, hidden: int, *, attention: bool
) -> None:
    if attention:
        _norm(shapes, f"{key}.norm1", dim)
        _linear(shapes, f"{key}.attn.qkv", dim, 3 * dim)
        _linear(shapes, f"{key}.attn.proj", dim, dim)
    _norm(shapes, f"{key}.norm2", dim)
    _linear(shapes, f"{key}.mlp.fc1", dim, hidden)
    _linear(shapes, f"{key}.mlp.fc2", hidden, dim)


def _merge(shapes: dict[str, tuple[int, ...]], key: str, inputs: int, outputs: int) -> None:
    shapes[f"{key}.dconv.weight"] = (outputs, inputs, 2, 2)
    shapes[f"{key}.dconv.bias"] = (outputs,)
    shapes[f"{key}.dconv.conv_offset.weight"] = (8, inputs, 2, 2)
    shapes[f"{key}.dconv.conv_offset.bias"] = (8,)
    _norm(shapes, f"{key}.norm_layer", outputs)
    shapes[f"{key}.norm_layer.running_mean"] = (outputs,)
    shapes[f"{key}.norm_layer.running_var"] = (outputs,)
    shapes[f"{key}.norm_layer.num_batches_tracked"] = ()


@pytest.mark.parametrize("name", [*SIZES, "lit_ti"])
def test_official_names_and_shapes_fit(name: str) -> None:
    official = official_shapes_ti() if name == "lit_ti" else official_shapes(name)
    renamed = {official_key(key): shape for key, shape in official.items()}
    renamed.pop(None, None)
    assert renamed == {k: tuple(v.shape) for k, v in on_meta(name).state_dict().items()}


@pytest.mark.parametrize("name", ["lit_small", "lit_ti"])
def test_official_weights_load_into_another_size(name: str, tmp_path: Path) -> None:
    """Positions are stretched, all else is loaded as it is, by timm and by ``name@file``."""
    official = official_shapes_ti() if name == "lit_ti" else official_shapes(name)
    state = {
        key: torch.full(shape, float(index)) if shape else torch.tensor(index)
        for index, (key, shape) in enumerate(official.items())
    }
    file = tmp_path / "official.safetensors"
    safetensors.torch.save_file(state, file)
    index = {key: float(i) for i, key in enumerate(official)}
    model = timm.create_model(
        name, img_size=(160, 96), pretrained=True, pretrained_cfg_overlay={"file": str(file)}
    ).requires_grad_(False)
    last = model.stages[3]
    if name == "lit_small":
        table = last.blocks[1].attn.relative_bias
        assert table.shape == (9 * 5, 24)
        key = "layers.3.blocks.1.attn.relative_position_bias_table"
        assert torch.allclose(table, torch.tensor(index[key]))
    else:
        assert last.pos_embed.weight.shape == (1, 16, 512)
        assert torch.allclose(last.pos_embed.weight, torch.tensor(index["pos_embed4"]))
    same = load_family([f"{name}@{file}"]).models[0].requires_grad_(False)
    offset = "patch_embed2." if name == "lit_ti" else "layers.0.downsample."
    for made in (model, same):
        weight = made.stages[1].downsample.offset.weight
        assert weight[0, 0, 0, 0].item() == index[f"{offset}dconv.conv_offset.weight"]


def test_stages_of_mlps_do_not_see_neighbours() -> None:
    """Exchanging positions before the first stage exchanges them behind it, and nothing else."""
    stage = timm.create_model("lit_small", **TINY).stages[0].eval()
    x = torch.randn(2, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        moved = stage(x.flatten(1, 2)[:, order].view_as(x))
        assert torch.allclose(moved.flatten(1, 2), stage(x).flatten(1, 2)[:, order], atol=1e-6)


def test_what_does_not_decay() -> None:
    names = timm.create_model("lit_ti", **TINY).no_weight_decay()
    assert names == {
        *(f"stages.{i}.pos_embed.weight" for i in range(4)),
        "stages.3.pos_embed.cls_token",
    }
    names = timm.create_model("lit_small", **TINY).no_weight_decay()
    assert len(names) == 3 and all(name.endswith("attn.relative_bias") for name in names)


def test_features_have_the_strides_of_a_pyramid() -> None:
    model = timm.create_model("lit_ti", features_only=True, **TINY).eval()
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, 64, 64))
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 16, 16), (12, 8, 8), (16, 4, 4), (24, 2, 2)]


def test_images_of_another_size_are_refused() -> None:
    model = timm.create_model("lit_small", **TINY)
    with pytest.raises(DataError, match=r"images of \(64, 64\) and was given \(96, 64\)"):
        model(torch.zeros(1, 3, 96, 64))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"img_size": 100}, "multiples of 32, got 100 x 100"),
        ({"img_size": (64, 48)}, "multiples of 32, got 64 x 48"),
        ({"img_size": 0}, "multiples of 32"),
        ({"pos": "rotary"}, "relative or absolute positions"),
        ({"global_pool": "token"}, "class token with absolute ones alone"),
        ({"global_pool": "max"}, "pos='relative' and global_pool='max'|pools by avg or token"),
        ({"depths": (1, 1)}, "one entry a stage"),
    ],
)
def test_settings_that_cannot_be(kwargs: dict[str, object], words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        LIT(**kwargs)
