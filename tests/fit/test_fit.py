"""A whole run: what it leaves behind, what comes back from disk, and what is refused."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sartor.core import (
    ArtifactError,
    Budget,
    BudgetError,
    FamilyError,
    Frontier,
    RecipeError,
    Target,
)
from sartor.data import load_task
from sartor.fit import FitSettings, fit
from sartor.runtime import OnnxModule


def load_tiny():
    path = Path(__file__).with_name("tiny_fit.py")
    spec = importlib.util.spec_from_file_location("tiny_fit", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_fit"] = module
    spec.loader.exec_module(module)
    return module


tiny = load_tiny()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eager") / "run"
    return folder, tiny.run(folder)


@pytest.fixture(scope="module")
def onnx_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "run"
    settings = FitSettings(epochs=1, routes=2, prune_ratios=(0.5,), recovery_epochs=1)
    frontier = tiny.run(folder, target=Target(batch=4), settings=settings, budget="latency<=1s")
    return folder, frontier


def test_a_run_leaves_a_frontier_a_report_and_points(finished):
    folder, frontier = finished
    assert {p.name for p in folder.iterdir()} >= {
        "frontier.json",
        "report.html",
        "points",
        "run.json",
    }
    assert [p.id for p in frontier.anchors] == ["vit-8", "vit-16"]
    made = {p.id for p in (*frontier.points, *frontier.anchors, *frontier.others)}
    assert any(id.startswith("sn.a0-1") for id in made)
    assert any(id.endswith("+prune50") for id in made)
    assert frontier.complete and frontier.costs == ("flops",)
    assert {p.name for p in (folder / "points").iterdir()} == {p.id for p in frontier}


def test_of_models_that_differ_in_weights_alone_one_is_pruned(finished):
    _, frontier = finished
    made = {p.id for p in (*frontier.points, *frontier.others)}
    joint = {id for id in made if id in ("sn.a0", "sn.a1")}
    assert joint, "the run made no jointly trained anchor"
    assert {f"{id}+prune50" for id in joint}.isdisjoint(made)
    assert {"vit-8+prune50", "vit-16+prune50"} <= made


def test_the_frontier_is_not_dominated(finished):
    _, frontier = finished
    flops, accuracy = zip(*[(p.measurement.flops, p.accuracy) for p in frontier], strict=True)
    assert list(flops) == sorted(set(flops)) and list(accuracy) == sorted(set(accuracy))
    for other in frontier.others:
        assert other.reason
        assert any(p.accuracy >= other.accuracy for p in frontier)


def test_points_come_back_with_their_accuracy_and_their_weights(finished):
    folder, _ = finished
    task = load_task("digits")
    for point in Frontier.load(folder):
        model = point.load_model()
        assert task.evaluate(model, task.validation) == point.accuracy
        saved = load_file(folder / "points" / point.id / "model.safetensors")
        assert sum(p.numel() for p in model.parameters()) == point.measurement.params
        assert all(torch.equal(saved[key], value) for key, value in model.state_dict().items())


def test_onnx_points_equal_what_was_fitted(onnx_run):
    folder, frontier = onnx_run
    inputs = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kinds = set()
    for point in frontier:
        model, deployed = (
            point.load_model(),
            OnnxModule(folder / "points" / point.id / "model.onnx"),
        )
        with torch.no_grad():
            torch.testing.assert_close(model(inputs), deployed(inputs), rtol=1e-5, atol=1e-5)
        kinds.add(isinstance(model, OnnxModule))
    made = [*frontier.points, *frontier.others]
    assert any("int8" in p.recipe.moves[-1] for p in made) and any(
        "prune" in p.recipe.moves for p in made
    )
    assert kinds  # at least one point was compared


def test_int8_is_smaller_and_named_after_its_move(onnx_run):
    _, frontier = onnx_run
    every = {p.id: p for p in (*frontier.points, *frontier.anchors, *frontier.others)}
    small = every["vit-16+int8-dynamic"]
    assert small.parent == "vit-16" and small.recipe.moves == ("anchor", "int8-dynamic")
    assert small.measurement.size_bytes < every["vit-16"].measurement.size_bytes
    assert small.measurement.flops == every["vit-16"].measurement.flops


def test_a_finished_run_is_returned_and_not_repeated(finished):
    folder, frontier = finished
    watcher = tiny.Count()
    again = tiny.run(folder, watcher, resume=True)
    assert again.to_dict() == frontier.to_dict() and watcher.count == 0


def test_another_run_in_the_same_folder_is_refused(finished):
    folder, _ = finished
    with pytest.raises(ArtifactError, match=r"--resume.*--overwrite.*--out"):
        tiny.run(folder)
    with pytest.raises(ArtifactError, match="was begun with settings"):
        tiny.run(folder, resume=True, settings=FitSettings(epochs=1))


def test_foreign_files_are_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="holds other files"):
        tiny.run(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json"])
def test_changed_files_are_refused(finished, tmp_path, name):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    point = Frontier.load(copy).points[-1]
    path = copy / "points" / point.id / name
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtifactError, match="was changed since it was written"):
        point.load_model()


def test_factories_of_a_recipe_are_not_imported_unasked(finished, tmp_path):
    _, frontier = finished
    recipe = frontier.points[0].recipe.to_dict()
    recipe["base"][0]["source"] = {"kind": "factory", "path": "os:getcwd"}
    folder = tmp_path / "point"
    shutil.copytree(frontier.points[0].folder, folder)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(RecipeError, match="os:getcwd"):
        fit([str(folder)], "digits", out=tmp_path / "run")


def test_a_point_can_be_an_anchor_of_the_next_run(finished, tmp_path):
    folder, frontier = finished
    points = [str(folder / "points" / p.id) for p in (frontier.points[0], frontier.points[-1])]
    settings = FitSettings(
        epochs=1, routes=1, moves=("prune",), prune_ratios=(0.25,), recovery_epochs=0
    )
    again = fit(points, "digits", target="cpu/eager", out=tmp_path / "run", settings=settings)
    assert {p.accuracy for p in again.anchors} == {
        frontier.points[0].accuracy,
        frontier.points[-1].accuracy,
    }
    assert all(p.load_model()(torch.zeros(1, 1, 8, 8)).shape == (1, 10) for p in again)


def test_budgets_pick_and_refuse(finished):
    _, frontier = finished
    cheapest, best = frontier.points[0], frontier.best()
    assert best.accuracy == max(p.accuracy for p in frontier)
    assert frontier.best(f"flops<={cheapest.measurement.flops}").id == cheapest.id
    with pytest.raises(BudgetError, match=r"flops<=1 binds, and the nearest point, .* loosen"):
        frontier.best("flops<=1")


def test_budgeted_costs_are_weighed(tmp_path):
    settings = FitSettings(
        epochs=0, routes=1, moves=("prune",), recovery_epochs=0, costs=("flops",)
    )
    frontier = tiny.run(tmp_path / "run", settings=settings, budget=Budget.parse("params<=60%"))
    assert frontier.costs == ("flops", "params") and str(frontier.budget) == "params<=60%"


def test_a_seconds_limit_still_ends_in_a_frontier(tmp_path):
    settings = FitSettings(**{**tiny.SETTINGS.to_dict(), "seconds": 0.001, "moves": ("prune",)})
    frontier = tiny.run(tmp_path / "run", settings=settings)
    assert frontier.complete and len(frontier) >= 1
    assert not any("prune" in p.recipe.moves for p in (*frontier.points, *frontier.others))


def test_a_family_of_one_is_not_stitched(tmp_path):
    alone = tiny.family().members[:1]
    settings = FitSettings(moves=("prune",), recovery_epochs=0, prune_ratios=(0.5,))
    family = type(tiny.family())(alone)
    frontier = fit(family, "digits", target="cpu/eager", out=tmp_path / "run", settings=settings)
    ids = {p.id for p in (*frontier.points, *frontier.anchors, *frontier.others)}
    assert ids == {"vit-8", "vit-8+prune50"}


def test_families_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(FamilyError, match="did you mean"):
        fit(["deit_tiny_patch16_22"], "digits", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epoch": 1}, "did you mean 'epochs'"),
        ({"moves": ["prun"]}, "did you mean 'prune'"),
        ({"costs": ["latency"]}, "did you mean 'latency_ms'"),
        ({"alpha": 2}, "alpha in"),
        ({"prune_ratios": [1.0]}, "must lie in"),
        ({"routes": 0}, "at least 1"),
    ],
    ids=str,
)
def test_unknown_or_illegal_settings_are_refused(given, said):
    with pytest.raises(RecipeError, match=said):
        FitSettings.from_dict(given)
