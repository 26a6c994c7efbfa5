from typing import ClassVar

import pytest
import timm
import torch
from torch import nn

import sartor.nn.backbones  # noqa: F401 (registers)
from sartor.core import DataError, FamilyError, NoEffectError
from sartor.nn.backbone import official_state
from sartor.nn.ecoformer.attention import EcoAttention
from sartor.nn.ecoformer.backbone import BACKBONES, eco_pvt_v2, fit_hashes_, official_key
from sartor.testing import BackboneContract

TINY = {"embed_dims": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}


class TestEcoFormer(BackboneContract):
    name = "ecoformer_pvt_v2_b0"
    kwargs: ClassVar = {
        **TINY,
        "drop_path_rate": 0.0,
        "num_bits": 4,
        "eco_stages": (0,),
        "mlp_ratios": (1, 1, 1, 1),
    }


def on_meta(name: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("size", "eco", "softmax"),
    [
        ("b0", 3_136_328, 3_198_280),
        ("b1", 11_891_368, 12_138_152),
        ("b2", 20_367_528, 21_062_376),
        pytest.param("b3", 34_084_008, 36_011_496, marks=pytest.mark.slow),
        pytest.param("b4", 45_665_704, 48_583_720, marks=pytest.mark.slow),
    ],
)
def test_parameters_of_the_card(size: str, eco: int, softmax: int) -> None:
    assert count(on_meta(f"ecoformer_pvt_v2_{size}")) == eco
    assert count(on_meta(f"pvt_v2_{size}", sr_ratios=(1, 1, 1, 1))) == softmax


def test_stages_are_those_of_the_paper() -> None:
    model = on_meta("ecoformer_pvt_v2_b2")
    kinds = [[isinstance(b.attn, EcoAttention) for b in stage.blocks] for stage in model.stages]
    assert kinds == [[True] * 3, [True] * 4, [True] * 6, [False] * 3]
    assert model.stages[3].blocks[0].attn.sr is None


def official_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' checkpoint of B0, written down from their modules."""
    dims, heads, ratios = (32, 64, 160, 256), (1, 2, 5, 8), (8, 8, 4, 4)
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(key: str, *shape: int) -> None:
        shapes[f"{key}.weight"], shapes[f"{key}.bias"] = shape, shape[:1]

    for i, (dim, head, ratio) in enumerate(zip(dims, heads, ratios, strict=True)):
        before, kernel = (dims[i - 1], 3) if i else (3, 7)
        layer(f"patch_embed{i + 1}.proj", dim, before, kernel, kernel)
        layer(f"patch_embed{i + 1}.norm", dim)
        for j in range(2):
            block = f"block{i + 1}.{j}"
            layer(f"{block}.norm1", dim)
            layer(f"{block}.norm2", dim)
            if i == 3:
                layer(f"{block}.attn.qkv", 3 * dim, dim)
            else:
                layer(f"{block}.attn.to_qk", dim, dim)
                layer(f"{block}.attn.to_v", dim, dim)
                ksh, d = f"{block}.attn.fast_attention.ksh", dim // head
                shapes[f"{block}.attn.fast_attention.projection_matrix"] = (110, d)
                shapes[f"{ksh}.A"] = (head, 16, 25)
                shapes[f"{ksh}.mvec"] = (1, head, 1, 25)
                shapes[f"{ksh}.anchor"] = (1, head, 25, d)
            layer(f"{block}.attn.proj", dim, dim)
            layer(f"{block}.mlp.fc1", ratio * dim, dim)
            layer(f"{block}.mlp.dwconv.dwconv", ratio * dim, 1, 3, 3)
            layer(f"{block}.mlp.fc2", dim, ratio * dim)
        layer(f"norm{i + 1}", dim)
    layer("head", 1000, 256)
    return shapes


def test_official_names_and_shapes_fit() -> None:
    model = timm.create_model("ecoformer_pvt_v2_b0", random_hash=False)
    state = {
        key: torch.full(shape, float(index))
        for index, (key, shape) in enumerate(official_shapes(model).items())
    }
    index = {key: float(i) for i, key in enumerate(state)}
    model.load_state_dict(model.adapt_state(official_state({"model": state}, official_key)))
    block, last = model.stages[1].blocks[1], model.stages[3].blocks[0]
    assert float(block.attn.hash.mean[1, 0]) == index["block2.1.attn.fast_attention.ksh.mvec"]
    assert float(block.attn.v.bias[0].detach()) == index["block2.1.attn.to_v.bias"]
    assert bool(block.attn.hash.is_fitted)
    assert last.attn.kv.weight.shape == (512, 256)
    assert float(last.attn.kv.bias[0].detach()) == index["block4.0.attn.qkv.bias"]


def test_hashes_are_fitted_in_network_order() -> None:
    """Each layer is fitted on what the fitted ones before it give."""
    torch.manual_seed(0)
    model = eco_pvt_v2(
        random_hash=False, eco_stages=(0,), num_anchors=9, **{**TINY, "depths": (2, 1, 1, 1)}
    )
    images = torch.randn(3, 3, 32, 32)
    errors = fit_hashes_(model, images, topk=4, steps=3)
    assert list(errors) == ["stages.0.blocks.0.attn", "stages.0.blocks.1.attn"]
    seen = []
    second = model.stages[0].blocks[1].attn
    second.register_forward_pre_hook(
        lambda layer, inputs: seen.append(layer.hash_inputs(inputs[0]))
    )
    with torch.no_grad():
        model.eval()(images)
    assert second.hash.affinity_error(seen[0], topk=4) == pytest.approx(
        errors["stages.0.blocks.1.attn"]
    )
    first = torch.cdist(second.hash.anchors[0], seen[0][0, 0]).min(dim=1).values
    assert first.max() < 1e-3


def test_maps_that_are_too_small() -> None:
    model = eco_pvt_v2(random_hash=False, **TINY)
    with pytest.raises(DataError, match=r"stages.1.blocks.0.attn: 16 tokens are too few"):
        fit_hashes_(model, torch.randn(2, 3, 32, 32), steps=1)


def test_nothing_to_fit() -> None:
    with pytest.raises(NoEffectError, match="no EcoAttention"):
        fit_hashes_(nn.Linear(2, 2), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"sr_ratios": (8, 4, 2, 1)}, "reduces no keys"),
        ({"linear": True}, "reduces no keys"),
        ({"eco_stages": (0, 4)}, "stages are 0 to 3"),
    ],
)
def test_settings_that_cannot_be(kwargs: dict, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        eco_pvt_v2(**TINY, **kwargs)


def test_names() -> None:
    assert [b.name for b in BACKBONES] == [f"ecoformer_pvt_v2_b{i}" for i in range(5)]
