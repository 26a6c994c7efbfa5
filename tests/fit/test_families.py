"""``fit`` on each kind of family, and on data and measures that only Python holds."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sartor.core import Frontier, Target, Task
from sartor.fit import FitSettings, fit
from sartor.runtime import OnnxModule
from sartor.testing import (
    tiny_conv_family,
    tiny_resnet_family,
    tiny_swin_family,
    tiny_task,
    tiny_vit_family,
)

FAMILIES = {
    "vit": (tiny_vit_family, (1, 8, 8), 10),
    "swin": (tiny_swin_family, (1, 16, 16), 4),
    "resnet": (tiny_resnet_family, (1, 32, 32), 4),
    "own": (tiny_conv_family, (1, 8, 8), 4),
}


def fitted(kind, folder, **more):
    make, shape, classes = FAMILIES[kind]
    settings = FitSettings(
        epochs=1, routes=2, prune_ratios=(0.5,), recovery_epochs=1, costs=("size_bytes",)
    )
    task = tiny_task(shape, num_classes=classes)
    return make(), fit(make(), task, out=folder, settings=settings, **more)


def check(family, frontier, shape):
    """Every point comes back, with the family where the recipe alone cannot build it."""
    made = {p.id for p in (*frontier.points, *frontier.others)}
    assert any(id.startswith("sn.") for id in made) and any("prune" in id for id in made)
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    for point in frontier:
        model = point.load_model(family=family)
        deployed = point.folder / "model.onnx"
        if deployed.exists():
            with torch.no_grad():
                torch.testing.assert_close(
                    model(inputs), OnnxModule(deployed)(inputs), rtol=1e-4, atol=1e-5
                )
        assert model(inputs).shape[0] == 3


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow) if k == "swin" else k for k in FAMILIES],
)
def test_each_kind_of_family_in_eager(kind, tmp_path):
    family, frontier = fitted(kind, tmp_path / "run", target="cpu/eager")
    check(family, frontier, FAMILIES[kind][1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_each_kind_of_family_in_onnxruntime(kind, tmp_path):
    family, frontier = fitted(kind, tmp_path / "run", target=Target(batch=2))
    check(family, frontier, FAMILIES[kind][1])
    assert not [note for note in frontier.notes if "failed" in note]


@pytest.mark.slow
def test_compiled_target(tmp_path):
    family, frontier = fitted("own", tmp_path / "run", target="cpu/compile")
    check(family, frontier, FAMILIES["own"][1])


def test_any_loader_and_any_measure_of_quality(tmp_path):
    """A regression: outputs are no classes, quality is a function of the user's."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 1, 8, 8, generator=generator)
    goals = inputs.mean(dim=(2, 3))
    loader = [(inputs[:16], goals[:16]), (inputs[16:], goals[16:])]

    def quality(model):
        return 1 / (1 + torch.nn.functional.mse_loss(model(inputs)[:, :1], goals).item())

    def loss(outputs, targets):
        return torch.nn.functional.mse_loss(outputs[:, :1], targets)

    task = Task.from_loader(loader, quality, loss=loss, metric="1 / (1 + MSE)")
    settings = FitSettings(epochs=2, routes=2, moves=(), costs=("flops",))
    frontier = fit(
        tiny_conv_family(), task, target="cpu/eager", out=tmp_path / "run", settings=settings
    )
    assert frontier.task["metric"] == "1 / (1 + MSE)" and len(frontier) >= 1
    assert any("optimistic" in note for note in frontier.notes)


@pytest.mark.slow
def test_launched_by_torchrun_ends_in_the_frontier_of_one_process(tmp_path):
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 255, (256, 32, 32, 3), "uint8"), np.arange(256) % 4
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels)
    words = ["--models", "test_vit", "test_vit2", "--data", str(tmp_path / "data.npz")]
    words += ["--target", "cpu/eager"]
    words += ["--epochs", "1", "--routes", "2", "--moves", "none", "--cost", "flops"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    launch += ["--rdzv-endpoint=localhost:0", "-m", "sartor.cli"]
    ids = {}
    for name, start in (("one", ["-m", "sartor.cli"]), ("two", launch)):
        command = [sys.executable, *start, "fit", *words, "--out", str(tmp_path / name)]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        frontier = Frontier.load(tmp_path / name)
        ids[name] = {p.id: p.accuracy for p in (*frontier.points, *frontier.others)}
    assert ids["one"].keys() == ids["two"].keys()
    assert ids["one"] == pytest.approx(ids["two"], abs=0.01)
