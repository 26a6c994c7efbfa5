"""Conversions of attention go whole through ``fit``: recovery, int8 on top, and files that come
back with the outputs that were measured.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sartor.compress.spvit import SPViTConfig
from sartor.core import Family, Frontier, Member, Point, Recipe, Task
from sartor.core.files import read_json
from sartor.data import digits_task
from sartor.fit import FitSettings, fit
from sartor.moves.replay import replay
from sartor.moves.spvit import SPViTMove
from sartor.nn import build
from sartor.nn.ecoformer.attention import EcoAttention
from sartor.runtime import OnnxModule
from sartor.testing import tiny_task, tiny_vit_family
from sartor.train import TrainSettings, train

INPUTS = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def points(frontier: Frontier) -> dict[str, Point]:
    return {p.id: p for p in (*frontier.points, *frontier.others, *frontier.anchors)}


def check_files(frontier: Frontier, folder: Path, task: Task) -> None:
    """Every model that was made, on the frontier or not, comes back from its recipe alone."""
    for id, point in points(frontier).items():
        made = folder / "state" / "made" / id
        model = replay(Recipe.from_dict(read_json(made / "recipe.json")), made)
        if (made / "model.onnx").exists():
            deployed = OnnxModule(made / "model.onnx")
            with torch.no_grad():
                torch.testing.assert_close(model(INPUTS), deployed(INPUTS), rtol=1e-4, atol=1e-4)
            model = deployed
        assert task.evaluate(model, task.validation) == point.accuracy, id


def test_ecoformer_in_a_run(tmp_path: Path) -> None:
    """Models with fewer tokens than its usual anchors are hashed all the same."""
    family, task = Family(tiny_vit_family(depth=1).members[2:]), tiny_task()
    settings = FitSettings(
        moves=("prune", "ecoformer"), prune_ratios=(0.5,), recovery_epochs=1, costs=("flops",)
    )
    frontier = fit(family, task, out=tmp_path / "run", settings=settings, target="cpu/eager")
    assert {"vit-32+prune50", "vit-32+ecoformer"} <= points(frontier).keys()
    check_files(frontier, tmp_path / "run", task)


@dataclass(frozen=True, kw_only=True)
class QuickSPViT(SPViTMove):
    config: SPViTConfig = field(
        default_factory=lambda: SPViTConfig(steps=12, arch_lr=0.3, lam_rel=100.0)
    )


def test_spvit_in_a_run_and_int8_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sartor.moves.spvit.SPViTMove", QuickSPViT)
    family, task = Family(tiny_vit_family(depth=1).members[2:]), tiny_task()
    settings = FitSettings(moves=("spvit", "int8-static"), recovery_epochs=1)
    frontier = fit(family, task, out=tmp_path / "run", settings=settings)
    assert {"vit-32+spvit", "vit-32+spvit+int8-static"} <= points(frontier).keys()
    check_files(frontier, tmp_path / "run", task)


def trained_family(task: Task) -> Family:
    members = []
    for width in (16, 32):
        source = {
            "kind": "tiny_vit",
            "kwargs": {"embed_dim": width, "depth": 2, "num_heads": 2},
        }
        model = build(source, seed=0)
        settings = TrainSettings(epochs=20, lr=4e-3, warmup_epochs=1)
        train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
        members.append(Member(name=f"vit-{width}", model=model, source=source))
    return Family(tuple(members))


@pytest.mark.slow
def test_trained_models_are_converted_recovered_and_quantised(tmp_path: Path) -> None:
    """Anchors and routes through two of them. Codes of so few tokens make nothing faster or
    smaller, so EcoFormer is tried on the largest anchor alone."""
    task = digits_task(batch_size=64)
    settings = FitSettings(
        epochs=2,
        routes=3,
        recovery_epochs=2,
        moves=("ecoformer", "spvit", "int8-static"),
    )
    frontier = fit(trained_family(task), task, out=tmp_path / "run", settings=settings)
    found = points(frontier)
    routes = [id for id in found if id.startswith("sn.") and "+" not in id]
    starts = ("vit-16", "vit-32", *routes)
    assert any(".s" in id for id in routes), "no route passes a stitch"
    assert {f"{id}+spvit{more}" for id in starts for more in ("", "+int8-static")} <= found.keys()
    check_files(frontier, tmp_path / "run", task)
    for move, least in (("ecoformer", 0.2), ("spvit", 0.4)):  # chance is 0.1
        for more in ("", "+int8-static"):
            assert found[f"vit-32+{move}{more}"].accuracy > least, move + more
    hashed = replay(found["vit-32+ecoformer"].recipe, tmp_path / "run/state/made/vit-32+ecoformer")
    assert {type(block.attn) for block in hashed.blocks} == {EcoAttention}
