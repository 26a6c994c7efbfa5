"""``fit`` with SN-Netv2: for classes, and the example of dense prediction."""

import importlib.util
from pathlib import Path

import pytest
import torch

from sartor.core import Frontier
from sartor.data import shapes_task
from sartor.fit import FitSettings, fit
from sartor.runtime import OnnxModule
from sartor.testing import tiny_task, tiny_vit_family

EXAMPLE = Path(__file__).parents[2] / "examples" / "dense_prediction.py"


def test_a_family_of_three(tmp_path: Path) -> None:
    family, folder = tiny_vit_family(depth=3), tmp_path / "run"
    settings = FitSettings(
        engine="sn-netv2", epochs=1, routes=3, moves=("prune",), prune_ratios=(0.5,),
        recovery_epochs=0, costs=("flops",),
    )  # fmt: skip
    fit(family, tiny_task(), out=folder, settings=settings, target="cpu/eager")
    frontier = Frontier.load(folder)
    made = {point.id for point in (*frontier.points, *frontier.others)}
    assert sum(id.startswith("sn2.") and "+" not in id for id in made) == 3
    assert any("prune" in id for id in made)
    inputs = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for point in frontier.points:
        assert point.load_model()(inputs).shape == (3, 10)


@pytest.mark.slow
def test_the_example_of_dense_prediction(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("dense_prediction", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    task = shapes_task(train=160, selection=32, validation=32, size=32)
    example.run(tmp_path / "run", task, epochs=6)
    frontier = Frontier.load(tmp_path / "run")
    made = {point.id for point in (*frontier.points, *frontier.others)}
    assert len(frontier.points) > 1 and sum(id.startswith("sn2.") for id in made) > 4
    inputs = next(iter(task.validation))[0]
    for point in frontier.points:
        model = point.load_model(factories=[example.FACTORY])
        with torch.no_grad():
            wanted = model(inputs)
        assert wanted.shape == (32, 5, 32, 32)
        found = OnnxModule(point.folder / "model.onnx")(inputs)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
