"""Label every pixel at many costs: an elastic SN-Netv2 backbone under one light head, from two
ViTs that were trained for it, made into a frontier by ``fit``.

    python examples/dense_prediction.py --out runs/shapes
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sartor.core import Family, Frontier, Member, Task
from sartor.data import shapes_task
from sartor.fit import FitSettings, fit
from sartor.nn import build
from sartor.train import TrainSettings, train

FACTORY = "sartor.nn.dense_vit:dense_tiny_vit"
#: width -> depth of the two models
SIZES = {16: 3, 48: 6}


def dense_family(task: Task, epochs: int) -> Family:
    """Train the two models alone; with your own, start here from your weights."""
    members = []
    for width, depth in SIZES.items():
        kwargs = {"embed_dim": width, "depth": depth, "num_heads": 4}
        source = {"kind": "factory", "path": FACTORY, "kwargs": kwargs}
        model = build(source, factories=[FACTORY])
        settings = TrainSettings(epochs=epochs, lr=3e-3, warmup_epochs=1)
        train(model, task.train, lambda m, x, y: task.loss(m(x), y), settings)
        members.append(Member(name=f"dense-{width}", model=model, source=source))
    return Family(tuple(members))


def run(out: Path, task: Task, epochs: int, target: str = "cpu/onnxruntime") -> Frontier:
    """Make the frontier."""
    settings = FitSettings(
        engine="sn-netv2", epochs=epochs, moves=(), costs=("latency_ms", "flops")
    )
    return fit(dense_family(task, epochs), task, target=target, out=out, settings=settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--epochs", type=int, default=30)
    given = parser.parse_args()
    for point in run(given.out, shapes_task(), given.epochs).points:
        print(f"{point.id:32} mIoU {point.accuracy:.3f}  {point.values['flops'] / 1e6:7.2f} MFLOPs")
