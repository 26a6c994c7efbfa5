from typing import ClassVar

import pytest
import timm
import torch
from torch import nn

import sartor.nn.backbones  # noqa: F401 (registers)
from sartor.core import FamilyError
from sartor.measure import count_flops
from sartor.nn.spvit import BACKBONES, spvit_deit
from sartor.testing import BackboneContract


class TestSPViT(BackboneContract):
    name = "spvit_deit_tiny"
    kwargs: ClassVar = {
        "kinds": ("conv1x1", "conv3x3", "attention"),
        "widths": (9, 7, 5),
        "embed_dim": 12,
        "num_heads": 3,
        "patch_size": 8,
        "img_size": 32,
    }

    def test_no_decay_names_exist(self) -> None:
        """timm also names tokens that its class does not have here."""
        model = self.made()
        names = {name for name, _ in model.named_parameters()}
        assert model.no_weight_decay() & names == {"pos_embed", "cls_token"}
        assert model.no_weight_decay() - names == {"dist_token", "reg_token"}


@pytest.mark.parametrize(
    ("name", "params", "fixed", "macs"),
    [
        ("spvit_deit_tiny", 4_774_808, 4_873_422, 1.0386),
        ("spvit_deit_small", 15_870_724, 16_116_858, 3.3532),
        ("spvit_deit_base", 41_583_639, 46_207_987, 8.4091),
        ("spvit_deit_base_10g", 58_320_928, 62_256_336, 11.7642),
    ],
)
def test_counts_of_the_card(name: str, params: int, fixed: int, macs: float) -> None:
    backbone = next(one for one in BACKBONES if one.name == name)
    with torch.device("meta"):
        model = timm.create_model(name)
        counted = count_flops(model, torch.zeros(1, 3, 224, 224)) / 2e9
    assert counted == pytest.approx(macs, abs=6e-5)
    found = sum(p.numel() for p in model.parameters())
    assert found == params
    # before they are made compact, convolutions keep values, outputs, head logits and a norm
    dim, heads = backbone.kwargs["embed_dim"], backbone.kwargs["num_heads"]
    hidden = dim // heads
    kept = 2 * (dim**2 + dim) + 9 * heads + 2 * hidden
    for kind, area in (("conv1x1", 1), ("conv3x3", 9)):
        compact = area * dim * hidden + hidden + 2 * hidden + hidden * dim + dim
        found += backbone.kwargs["kinds"].count(kind) * (kept - compact)
    assert found == fixed


def test_branches_of_a_skipped_block() -> None:
    model = spvit_deit(("skip", "attention"), (4, 4), embed_dim=12, img_size=32)
    assert not list(model.blocks[0].attn.parameters())
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    assert isinstance(model.blocks[0].drop_path1, nn.Identity)


@pytest.mark.parametrize(
    ("kinds", "widths"),
    [(("conv5x5",), (4,)), (("skip",), (0,)), (("skip",), (4, 4)), ((), ())],
)
def test_architectures_that_cannot_be(kinds: tuple[str, ...], widths: tuple[int, ...]) -> None:
    with pytest.raises(FamilyError, match="a width of at least 1 for each block"):
        spvit_deit(kinds, widths, embed_dim=12, img_size=32)
