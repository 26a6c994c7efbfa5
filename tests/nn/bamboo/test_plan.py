import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from sartor.core import FamilyError
from sartor.measure import count_flops, count_params
from sartor.nn.bamboo.plan import ViTSize, depth_width_tradeoff, equal_budget

#: the card's table: depth, width, heads, patch, parameters, multiply-adds in 1e9
TABLE = [
    (12, 768, 12, 16, 85_798_656, 17.56),
    (24, 512, 8, 16, 76_153_344, 15.90),
    (24, 544, 17, 16, 85_926_432, None),
    (48, 384, 6, 16, 85_546_368, 18.22),
    (24, 1024, 16, 16, 303_301_632, 61.55),
    (48, 768, 12, 16, 340_962_048, 69.91),
    (48, 720, 15, 16, 299_745_360, None),
    (32, 1280, 20, 14, 630_764_800, 167.3),
    (48, 1024, 16, 14, 605_488_128, 161.9),
]


@pytest.mark.parametrize(("depth", "dim", "heads", "patch", "params", "gmacs"), TABLE)
def test_counts_of_the_card(
    depth: int, dim: int, heads: int, patch: int, params: int, gmacs: float | None
) -> None:
    size = ViTSize(depth=depth, embed_dim=dim, num_heads=heads, patch_size=patch)
    assert size.params == params
    if gmacs is not None:
        assert size.macs / 1e9 == pytest.approx(gmacs, rel=5e-4)


@pytest.mark.parametrize("mlp_ratio", [4.0, 2.5, 1 / 3])
def test_counts_are_those_of_the_built_model(mlp_ratio: float) -> None:
    size = ViTSize(
        depth=3,
        embed_dim=48,
        num_heads=3,
        patch_size=4,
        img_size=32,
        in_chans=1,
        mlp_ratio=mlp_ratio,
    )
    model = VisionTransformer(**size.kwargs(), num_classes=0)
    assert count_params(model) == size.params
    assert count_flops(model, torch.zeros(1, 1, 32, 32)) == 2 * size.macs


def test_equal_budget_keeps_depth_times_squared_width() -> None:
    base = ViTSize(depth=12, embed_dim=768, num_heads=12)
    assert [equal_budget(base, depth=n).embed_dim for n in (12, 24, 48)] == [768, 512, 384]
    huge = ViTSize(depth=32, embed_dim=1280, num_heads=20, patch_size=14)
    assert equal_budget(huge, depth=48).embed_dim == 1024
    small = ViTSize(depth=3, embed_dim=96, num_heads=6)
    deeper = equal_budget(small, depth=12, head_dim=16)
    assert (deeper.embed_dim, deeper.num_heads) == (48, 3)
    assert 12 * 12 * 48**2 == 12 * 3 * 96**2 == 331_776


@pytest.mark.parametrize("cost", ["params", "macs"])
def test_no_width_is_nearer(cost: str) -> None:
    budget = 90e6 if cost == "params" else 15e9
    for size in depth_width_tradeoff(**{cost: budget}, depths=[6, 12, 24, 48]):
        distance = abs(getattr(size, cost) - budget)
        for heads in (size.num_heads - 1, size.num_heads + 1):
            other = ViTSize(depth=size.depth, embed_dim=64 * heads, num_heads=heads)
            assert abs(getattr(other, cost) - budget) >= distance


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"depth": 0}, "depth of a vision transformer is at least 1, got 0"),
        ({"embed_dim": 100}, "multiple of its num_heads, got 100 and 12"),
        ({"patch_size": 15}, "multiple of its patch_size, got 224 and 15"),
        ({"mlp_ratio": 0.0}, "mlp_ratio of at least 1 / 768, got 0.0"),
    ],
)
def test_sizes_that_cannot_be(kwargs: dict, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        ViTSize(**{"depth": 12, "embed_dim": 768, "num_heads": 12, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "params=None and macs=None"),
        ({"params": 1e6, "macs": 1e9}, "give either"),
        ({"params": 0}, "above 0"),
        ({"macs": math.inf}, "above 0"),
        ({"macs": 1e9, "head_dim": 0}, "head_dim is at least 1, got 0"),
    ],
)
def test_budgets_that_cannot_be(kwargs: dict, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        depth_width_tradeoff(depths=[12], **kwargs)


def test_depths_that_cannot_be() -> None:
    with pytest.raises(FamilyError, match="No depth was given"):
        depth_width_tradeoff(params=1e6, depths=[])
    with pytest.raises(FamilyError, match="at least 1, got 0"):
        depth_width_tradeoff(params=1e6, depths=[0])
    with pytest.raises(FamilyError, match="at least 1, got 0 and 64"):
        equal_budget(ViTSize(depth=1, embed_dim=64, num_heads=1), depth=0)
