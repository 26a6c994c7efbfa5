"""The figures of the published DeiT-Ti/S/B net, on the meta device: shapes without weights."""

import pytest
import torch
from torch import nn

from sartor.core import Family
from sartor.stitch import StitchableNetwork, stitch

TOKENS = 197
DEIT = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224")


def made(*names: str) -> tuple[Family, StitchableNetwork]:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        family = Family.of({name: timm.create_model(name).eval() for name in names})
    return family, stitch(family, torch.zeros(1, 3, 224, 224, device="meta"))


@pytest.fixture(scope="module")
def deit() -> tuple[Family, StitchableNetwork]:
    return made(*DEIT)


def published_flops(net: StitchableNetwork, index: int) -> float:
    """Multiply-accumulates, and 5 for each element that a layer norm takes."""
    norms = 0
    for module in net.extract(index).modules():
        if isinstance(module, nn.LayerNorm):
            norms += 5 * TOKENS * module.normalized_shape[0]
    return net.flops(index) / 2 + norms


def test_parameters(deit: tuple[Family, StitchableNetwork]) -> None:
    family, net = deit
    counts = [sum(p.numel() for p in m.parameters()) for m in family.models]
    assert counts == [5_717_416, 22_050_664, 86_567_656]
    assert [net.num_params(i) for i in range(3)] == counts
    assert len(net.stitch_layers) == 22 and net.num_configs == 71
    assert sum(p.numel() for p in net.stitch_layers.parameters()) == 4_067_712
    assert sum(p.numel() for p in net.parameters()) == 118_403_448


def test_flops(deit: tuple[Family, StitchableNetwork]) -> None:
    _, net = deit
    assert [published_flops(net, i) for i in range(3)] == [
        1_258_411_200,
        4_608_338_304,
        17_582_740_224,
    ]
    assert net.configs[3].name == "a0-1.s0.0-0"
    # as released, without the final norm, and 5 for each of its elements
    assert published_flops(net, 3) == 4_696_010_496 + 378_240


def test_used_parameters_of_the_first_stitch(deit: tuple[Family, StitchableNetwork]) -> None:
    family, net = deit
    embeddings = family.models[0].cls_token.numel() + family.models[0].pos_embed.numel()
    assert net.num_params(3) - embeddings == 22_345_960


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (
            (
                "swin_tiny_patch4_window7_224",
                "swin_small_patch4_window7_224",
                "swin_base_patch4_window7_224",
            ),
            41,
        ),
        (("resnet18", "resnet50"), 10),
    ],
    ids=["swin", "resnet"],
)
def test_hierarchical_families(names: tuple[str, ...], count: int) -> None:
    family, net = made(*names)
    assert net.num_configs == count
    counts = [sum(p.numel() for p in m.parameters()) for m in family.models]
    assert [net.num_params(i) for i in range(len(names))] == counts
