"""``fit`` on a family whose larger anchor is its smaller one, deepened."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sartor.core import Family, Frontier, Recipe, Task
from sartor.core.files import read_json
from sartor.fit import FitSettings, fit
from sartor.measure import count_params
from sartor.moves.replay import replay
from sartor.moves.scalenet import deepen
from sartor.runtime import OnnxModule
from sartor.stitch.scalenet import ScaleNetConfig
from sartor.stitch.shared_blocks import tied_names
from sartor.testing import tiny_task, tiny_vit_family

SETTINGS = FitSettings(
    epochs=0, routes=3, prune_ratios=(0.25,), recovery_epochs=1, costs=("flops",)
)


def family() -> Family:
    base = tiny_vit_family().members[1]
    deep = deepen(base, ScaleNetConfig(rank=2))
    with torch.no_grad():  # as if it was trained: other weights, classes that depend on the input
        for parameter in deep.model.parameters():
            parameter.mul_(1.1).add_(0.01)
        deep.model.patch_embed.proj.weight.mul_(10)
    return Family((base, deep))


def task_of(models: Family) -> Task:
    """A task that the deepened anchor solves, so that it lies on the frontier."""
    task = tiny_task()

    def labelled(batches: list) -> list:
        with torch.no_grad():
            logits = [models.models[-1](inputs) for inputs, _ in batches]
        return [(x, y.argmax(1)) for (x, _), y in zip(batches, logits, strict=True)]

    return replace(
        task,
        train=labelled(task.train),
        selection=labelled(task.selection),
        validation=labelled(task.validation),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["cpu/eager", pytest.param("cpu/onnxruntime", marks=pytest.mark.slow)]
)
def test_every_model_comes_back_from_disk(tmp_path: Path, target: str) -> None:
    models, inputs = family(), tiny_task().batch(8)
    task = task_of(models)
    fit(models, task, target=target, settings=SETTINGS, out=tmp_path / "run")
    frontier = Frontier.load(tmp_path / "run")
    deep = frontier["vit-16-deep"].load_model()
    assert torch.equal(deep(inputs), models.models[1](inputs))
    assert len(tied_names(deep)) == 24 and tied_names(deep) == tied_names(models.models[1])
    for point in frontier:
        model = point.load_model()
        with torch.inference_mode():
            assert float(task.evaluate(model, task.validation)) == pytest.approx(point.accuracy)
    made = [path.parent for path in (tmp_path / "run").rglob("recipe.json")]
    kinds = set()
    for folder in made:  # those that are not on the frontier too
        recipe = Recipe.from_dict(read_json(folder / "recipe.json"))
        model = replay(recipe, folder)
        kinds.add(recipe.moves)
        if (folder / "model.onnx").exists():
            with torch.no_grad():
                torch.testing.assert_close(
                    model(inputs), OnnxModule(folder / "model.onnx")(inputs), rtol=1e-4, atol=1e-4
                )
    assert {("anchor",), ("sn-net",), ("anchor", "prune")} <= kinds


def test_costs_of_the_deepened_anchor_are_told_as_they_are(tmp_path: Path) -> None:
    models = family()
    frontier = fit(
        models, task_of(models), target="cpu/eager", settings=SETTINGS, out=tmp_path / "run"
    )
    base, deep = (anchor.values for anchor in frontier.anchors)
    assert deep["params"] == count_params(models.models[1]) < 1.1 * base["params"]
    assert deep["flops"] > 1.8 * base["flops"]
    assert deep["size_bytes"] < 1.5 * base["size_bytes"]
