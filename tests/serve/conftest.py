"""Fakes that answer with the tag of each input, a clock that jumps, and one small real run."""

from __future__ import annotations

import asyncio
import selectors
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sartor.core import Family, Frontier, Measurement, Member, Point, Recipe, Step, Target
from sartor.core.files import sha256, write_json
from sartor.moves.replay import describe_base
from sartor.nn import build
from sartor.runtime import to_onnx
from sartor.serve.engine import Engine, EngineSettings, Loaded
from sartor.serve.offer import Offer
from sartor.serve.policy import PolicySettings
from sartor.stitch import stitch
from sartor.train import save_tensors
from sartor.train.checkpoint import save_checkpoint


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time: the clock jumps to the next timer."""

    def __init__(self):
        self.now = 0.0
        super().__init__(_Jumping(self))

    def time(self):
        return self.now


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def select(self, timeout=None):
        events = super().select(0)
        if not events:
            assert timeout is not None, "everything waits and nothing is due"
            self.loop.now += timeout
        return events


@pytest.fixture
def run_virtual():
    """Run a coroutine function to its end in virtual time."""

    def run(main):
        loop = VirtualLoop()
        try:
            return loop.run_until_complete(main())
        finally:
            loop.close()

    return run


class TagBackend:
    """Each output row is (tag of the input, number of the point); faults can be switched on."""

    kind = "onnx"
    keep = 8

    def __init__(self, seconds=0.0):
        self.accuracies = {"small": 0.8, "large": 0.9}
        self.seconds, self.raising, self.nan, self.calls = seconds, set(), set(), []

    def run(self, id, inputs):
        time.sleep(self.seconds)
        self.calls.append((id, len(inputs)))
        if id in self.raising:
            raise RuntimeError("the worker broke")
        tags = inputs.reshape(len(inputs), -1)[:, 0]
        outputs = np.stack([tags, np.full(len(inputs), list(self.accuracies).index(id))], axis=1)
        return np.full_like(outputs, np.nan) if id in self.nan else outputs

    def memory(self):
        return {"small": 1000, "large": 2000}


def fake_loaded(backend, shape=(1, 4, 4)):
    task = {"name": "tags", "metric": "accuracy", "input_shape": list(shape), "classes": ["a", "b"]}
    offers = (
        Offer(id="small", accuracy=0.8, times=((1, 0.5), (8, 1.0))),
        Offer(id="large", accuracy=0.9, times=((1, 1.0), (8, 4.0))),
    )
    return Loaded(
        folder=Path("fake"),
        frontier=SimpleNamespace(task=task),
        backend=backend,
        offers=offers,
        withdrawn={},
    )


@pytest.fixture
def backend():
    return TagBackend()


@pytest.fixture
def make_engine(backend):
    """An engine over the fake backend; ``shape`` and ``slo_ms`` may be given."""

    def make(slo_ms=2000.0, shape=(1, 4, 4)):
        settings = EngineSettings(policy=PolicySettings(slo_ms=slo_ms, max_batch=8))
        return Engine("fake", settings, load=lambda folder, given: fake_loaded(backend, shape))

    return make


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A run as ``fit`` leaves it, with three routes of a stitched pair of ViTs and no training."""
    folder = tmp_path_factory.mktemp("serve") / "run"
    sources = [
        {"kind": "tiny_vit", "kwargs": {"embed_dim": dim, "depth": 2, "num_heads": 2}}
        for dim in (8, 16)
    ]
    members = [
        Member(name=f"vit-{i}", model=build(source, seed=i), source=source)
        for i, source in enumerate(sources)
    ]
    family, example = Family(tuple(members)), torch.zeros(2, 1, 8, 8)
    net = stitch(family, example)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    save_checkpoint(folder / "state" / "training", net, optimizer, {"epoch": 1})
    points = []
    for index, accuracy in enumerate((0.7, 0.9, 0.8)):
        plan = {"index": index, "route": net.configs[index].name}
        config = {"kernel_size": 2, "stride": 1, "nearest": True, "input_shape": [1, 8, 8]}
        step = Step(move="sn-net", config=config, plan=plan)
        recipe = Recipe(base=describe_base(family), steps=(step,))
        points.append(
            write_point(folder / "points" / f"p{index}", net.extract(index), recipe, accuracy)
        )
    Frontier(
        task={
            "name": "tiny",
            "metric": "accuracy",
            "input_shape": [1, 8, 8],
            "classes": list("abcdefghij"),
        },
        target=Target(runtime="onnxruntime", batch=4),
        points=tuple(points),
        anchors=tuple(points[:2]),
    ).save(folder)
    return folder


def write_point(folder, model, recipe, accuracy):
    model.eval()
    save_tensors(model.state_dict(), folder / "model.safetensors")
    to_onnx(model, torch.zeros(1, 1, 8, 8), folder / "model.onnx")
    write_json(folder / "recipe.json", recipe.to_dict())
    numbers = {"latency_ms": accuracy, "latency_iqr_ms": 0.1, "warmup": 1, "repeats": 2}
    cost = Measurement(**numbers, flops=1, params=1, size_bytes=1)
    return Point(
        id=folder.name,
        accuracy=accuracy,
        measurement=cost,
        recipe=recipe,
        seconds=0.0,
        files={path.name: sha256(path) for path in folder.iterdir()},
        folder=folder,
    )
