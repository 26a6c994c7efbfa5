from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import timm
import torch

import sartor.nn.backbones
from sartor.core import FamilyError
from sartor.measure import count_flops, count_params
from sartor.nn.bamboo.backbone import BACKBONES, bamboo, encoder_key
from sartor.testing import BackboneContract

#: name -> depth, width, heads, patch, parameters without classifier, multiply-adds in 1e9
SIZES = {
    "bamboo_base_patch16_224": (24, 512, 8, 16, 76_153_344, 15.90),
    "bamboo_large_patch16_224": (48, 768, 12, 16, 340_962_048, 69.91),
    "bamboo_huge_patch14_224": (48, 1024, 16, 14, 605_488_128, 161.9),
}
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3}


class TestBamboo(BackboneContract):
    name = "bamboo_base_patch16_224"
    kwargs: ClassVar = {**TINY, "num_heads": 2}

    def test_no_decay_names_exist(self) -> None:
        """timm also names tokens that this class does not have here."""
        assert self.made().no_weight_decay() == {
            "pos_embed",
            "cls_token",
            "dist_token",
            "reg_token",
        }
        assert {"pos_embed", "cls_token"} <= dict(self.made().named_parameters()).keys()


@pytest.mark.parametrize(
    "name", [n if "base" in n else pytest.param(n, marks=pytest.mark.slow) for n in SIZES]
)
def test_counts_of_the_card(name: str) -> None:
    depth, dim, heads, patch, params, gmacs = SIZES[name]
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    assert (len(model.blocks), model.embed_dim, model.blocks[0].attn.num_heads) == (
        depth,
        dim,
        heads,
    )
    assert model.patch_embed.patch_size == (patch, patch)
    assert count_params(model) == params
    macs = count_flops(model, torch.zeros(1, 3, 224, 224, device="meta")) / 2
    assert macs / 1e9 == pytest.approx(gmacs, rel=5e-4)


def test_all_levels_are_registered() -> None:
    assert {*timm.list_models("bamboo*")} == {*SIZES} <= {*sartor.nn.backbones.BACKBONES}


def test_other_sizes_of_the_card_by_arguments() -> None:
    with torch.device("meta"):
        model = timm.create_model("bamboo_base_patch16_224", depth=48, embed_dim=384, num_classes=0)
        odd = bamboo(depth=24, embed_dim=544, num_heads=17, num_classes=0)
        flat = bamboo(depth=48, embed_dim=720, num_heads=15, num_classes=0)
    assert model.blocks[0].attn.num_heads == 6
    assert [count_params(m) for m in (model, odd, flat)] == [85_546_368, 85_926_432, 299_745_360]


def test_it_is_timms_transformer_of_that_size() -> None:
    theirs = timm.create_model("vit_base_patch16_224", **TINY, num_heads=1, num_classes=5).eval()
    ours = timm.create_model("bamboo_base_patch16_224", **TINY, num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_the_mean_token_can_be_classified() -> None:
    model = timm.create_model("bamboo_base_patch16_224", **TINY, global_pool="avg")
    assert isinstance(model.fc_norm, torch.nn.LayerNorm)
    assert isinstance(model.norm, torch.nn.Identity)


def official_state(
    depth: int, dim: int, *, patches: int = 196, patch: int = 16
) -> dict[str, torch.Tensor]:
    """Names and shapes of a masked autoencoder of the reference code, classifier added."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, patches + 1, dim),
        "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, patches + 1, 512),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,),
        "decoder_embed.weight": (512, dim),
        "decoder_embed.bias": (512,),
        "decoder_pred.weight": (3 * patch**2, 512),
        "decoder_pred.bias": (3 * patch**2,),
        "head.weight": (1000, dim),
        "head.bias": (1000,),
    }
    for prefix, width, blocks in (("", dim, depth), ("decoder_", 512, 8)):
        for name in ("norm.weight", "norm.bias"):
            shapes[f"{prefix}{name}"] = (width,)
        for index in range(blocks):
            key = f"{prefix}blocks.{index}"
            for layer, inputs, outputs in (
                ("attn.qkv", width, 3 * width),
                ("attn.proj", width, width),
                ("mlp.fc1", width, 4 * width),
                ("mlp.fc2", 4 * width, width),
            ):
                shapes[f"{key}.{layer}.weight"] = (outputs, inputs)
                shapes[f"{key}.{layer}.bias"] = (outputs,)
            for norm in ("norm1", "norm2"):
                shapes[f"{key}.{norm}.weight"] = shapes[f"{key}.{norm}.bias"] = (width,)
    return {
        name: torch.full((), float(i)).expand(shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


@pytest.mark.parametrize("backbone", BACKBONES[:2], ids=lambda b: b.name)
def test_names_of_masked_autoencoders_fit(backbone) -> None:
    depth, dim, *_ = SIZES[backbone.name]
    renamed = {encoder_key(k): tuple(v.shape) for k, v in official_state(depth, dim).items()}
    renamed.pop(None)
    with torch.device("meta"):
        own = timm.create_model(backbone.name, num_classes=1000).state_dict()
    assert renamed == {k: tuple(v.shape) for k, v in own.items()}


def test_a_masked_autoencoder_loads(tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in official_state(3, 64, patches=16, patch=8).items()}
    safetensors.torch.save_file(state, tmp_path / "mae.safetensors")
    overlay = {"file": str(tmp_path / "mae.safetensors")}
    model = timm.create_model(
        "bamboo_base_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, **TINY
    )
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, state[name]), name


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"embed_dim": 100}, "64 channels a head, got embed_dim=100"),
        ({"embed_dim": 64, "num_heads": 5}, "5 heads, got embed_dim=64"),
        ({"embed_dim": 64, "num_heads": 0}, "0 heads"),
        ({"depth": 0}, "at least one block, got a depth of 0"),
        ({"img_size": 30}, "height of a Bamboo's images .* got 30 and 16"),
        ({"img_size": (32, 36)}, "width of a Bamboo's images .* got 36 and 16"),
    ],
)
def test_sizes_that_cannot_be(kwargs: dict, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        bamboo(**kwargs)
