"""Two sizes of each of sartor's backbones are a family: stitched, trained, saved and loaded
again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core import Family, Recipe, Step, Task
from sartor.data import digits_task
from sartor.export import export
from sartor.fit import FitSettings, fit
from sartor.moves.replay import describe_base, replay
from sartor.nn import load_family
from sartor.stitch import StitchableNetwork, stitch
from sartor.testing import tiny_task
from sartor.train import TrainSettings, save_tensors, train

SIDE = 32
#: one pixel is too small for what the first two do with their smallest maps; the last is slow
SIDES = {"ghostnetv3": 48, "mobilenetv2_100_metapool": 48, "rf_resnet20": 16}
#: plain sequences of tokens and 53 layers, which so few steps teach little
SLOW_LEARNERS = {
    "hvt_small_2",
    "sparse_mlp_small",
    "spvit_deit_tiny",
    "bamboo_base_patch16_224",
    "mobilenetv2_100_metapool",
}

_PYRAMID = {"depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "drop_path_rate": 0.0}
_WIDTHS = ({"embed_dims": [8, 8, 16, 24]}, {"embed_dims": [8, 16, 24, 32]})
_LIT = {**_PYRAMID, "img_size": SIDE, "mlp_ratios": [2, 2, 2, 2]}
_TOKENS = {"img_size": SIDE, "patch_size": 8}
#: name in timm -> what both sizes share, what the small one and the large one have of their own
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "litv2_small": ({**_PYRAMID, "alpha": 0.5}, *_WIDTHS),
    "lit_small": (_LIT, _WIDTHS[0], {**_WIDTHS[1], "depths": [1, 1, 3, 1]}),
    "lit_ti": (_LIT, *_WIDTHS),
    "hvt_small_2": (
        {"img_size": SIDE, "patch_size": 4, "depth": 6, "pool_every": 2, "num_heads": 2},
        {"embed_dim": 16},
        {"embed_dim": 24},
    ),
    "ecoformer_pvt_v2_b0": (
        {**_PYRAMID, "mlp_ratios": [2, 2, 2, 2], "num_bits": 4, "eco_stages": [0, 1]},
        *_WIDTHS,
    ),
    "pvt_v2_b0": ({**_PYRAMID, "mlp_ratios": [2, 2, 2, 2]}, *_WIDTHS),
    "sparse_mlp_small": (
        {**_TOKENS, "depth": 3, "num_sparse": 1},
        {"embed_dim": 16},
        {"embed_dim": 32},
    ),
    "spvit_deit_tiny": (
        {**_TOKENS, "kinds": ["conv1x1", "conv3x3", "attention"], "num_heads": 2},
        {"embed_dim": 16, "widths": [20, 16, 12]},
        {"embed_dim": 32, "widths": [24, 20, 16]},
    ),
    "bamboo_base_patch16_224": (
        {**_TOKENS, "num_heads": 2},
        {"embed_dim": 16, "depth": 2},
        {"embed_dim": 32, "depth": 4},
    ),
    "ghostnetv3": ({}, {"name": "ghostnetv3_050"}, {"name": "ghostnetv3_100"}),
    "mobilenetv2_100_metapool": ({}, {"base": "mobilenetv2_035"}, {"base": "mobilenetv2_050"}),
    "rf_resnet20": ({"depth": 14}, {"width": 16}, {"width": 32}),
}


def shape_of(name: str) -> tuple[int, int, int]:
    side = SIDES.get(name, SIDE)
    return (1, side, side)


def family_of(name: str, task: Task) -> Family:
    """The two sizes, from sources that say how they are built."""
    shared, *own = FAMILIES[name]
    sources = []
    for size in own:
        kwargs = {"in_chans": 1, "num_classes": task.num_classes, **shared, **size}
        sources.append({"kind": "timm", "name": kwargs.pop("name", name), "kwargs": kwargs})
    return load_family(sources, task=task)


def stitched(name: str) -> tuple[Family, StitchableNetwork, int, Tensor]:
    """With the number of a route that passes a stitch, and with images."""
    family = family_of(name, tiny_task(shape_of(name), num_classes=4))
    images = torch.randn(16, *shape_of(name), generator=torch.Generator().manual_seed(0))
    net = stitch(family, images[:2])
    net.init_stitches(images, ridge=1e-3)
    index = next(i for i, config in enumerate(net.configs) if config.stitches)
    return family, net, index, images[:3]


@pytest.mark.parametrize(
    "name",
    # GhostNetV3 is three thousand modules, which take seconds to copy
    [pytest.param(n, marks=pytest.mark.slow) if n == "ghostnetv3" else n for n in FAMILIES],
)
def test_a_stitched_route_comes_back_from_its_recipe(name: str, tmp_path: Path) -> None:
    family, net, index, images = stitched(name)
    net.set_config(index)
    with torch.no_grad():
        logits = net(images)
    shape = {"input_shape": list(shape_of(name))}
    settings = {"kernel_size": 2, "stride": 1, "nearest": True, **shape}
    plan = {"index": index, "route": net.configs[index].name}
    recipe = Recipe(
        base=describe_base(family), steps=(Step(move="sn-net", config=settings, plan=plan),)
    )
    save_tensors(net.extract(index).state_dict(), tmp_path / "model.safetensors")
    again = replay(Recipe.from_dict(recipe.to_dict()), tmp_path)
    with torch.no_grad():
        assert logits.isfinite().all() and torch.equal(again(images), logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_stitched_route_exports(name: str, tmp_path: Path) -> None:
    _, net, index, images = stitched(name)
    path = tmp_path / "stitched.onnx"
    assert export(net.extract(index), images, path, format="onnx").verified


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_trained_family_goes_through_fit(name: str, tmp_path: Path) -> None:
    """Stitched routes know digits, where the models do, and come back with their accuracy."""
    torch.manual_seed(0)
    task = digits_task(image_size=shape_of(name), batch_size=64, noise=0.3)
    few = {"selection": list(task.selection)[:4], "validation": list(task.validation)[:8]}
    task = replace(task, **few)
    family = family_of(name, task)
    learning = TrainSettings(epochs=3, lr=3e-3, warmup_epochs=1)
    for model in family.models:
        train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), learning)
    settings = FitSettings(epochs=1, routes=4, moves=(), costs=("flops",))
    frontier = fit(family, task, out=tmp_path / "run", settings=settings, target="cpu/eager")
    points = {point.id: point for point in (*frontier.points, *frontier.others)}
    crossing = [point for id, point in points.items() if id.startswith("sn.") and ".s" in id]
    assert crossing, "no route passes a stitch"
    if name not in SLOW_LEARNERS:
        assert max(point.accuracy for point in crossing) > 0.5  # guessing has 0.1
    for point in frontier:
        assert task.evaluate(point.load_model(), task.validation) == pytest.approx(point.accuracy)
