"""Make the run of ``elastic.py``: a wide family on digits with less noise, about five minutes.

    OMP_NUM_THREADS=1 python benchmarks/serve/wide_run.py runs/wide

The demo's family is narrow: its best point is only three times as slow as its worst, which loses
23 points of accuracy. Here the largest model is much slower than what is nearly as good, as in
families of pretrained models.
"""

import sys

import torch
import torch.nn.functional as F

from sartor.core import Family, Member
from sartor.data.digits import digits_task
from sartor.fit import FitSettings, fit
from sartor.nn import build
from sartor.train import TrainSettings, train

WIDTHS = {16: 5e-3, 32: 3e-3, 128: 1e-3}


def family(task):
    members = []
    for width, lr in WIDTHS.items():
        sizes = {"embed_dim": width, "depth": 6, "num_heads": 4, "num_classes": 10}
        source = {"kind": "tiny_vit", "kwargs": sizes}
        model = build(source, seed=0)
        settings = TrainSettings(epochs=40, lr=lr, warmup_epochs=3, weight_decay=0.1)
        train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
        members.append(Member(name=f"vit-{width}", model=model.eval(), source=source))
        sys.stdout.write(f"trained vit-{width}\n")
    return Family(tuple(members))


def main():
    torch.set_num_threads(1)
    task = digits_task(noise=0.3)
    frontier = fit(
        family(task),
        task,
        target="cpu/onnxruntime",
        batch=32,
        out=sys.argv[1],
        settings=FitSettings(epochs=12, routes=5, prune_ratios=(0.5,)),
        overwrite=True,
    )
    for point in frontier:
        sys.stdout.write(f"{point.id} {point.accuracy:.4f} {point.measurement.latency_ms:.3f} ms\n")


if __name__ == "__main__":
    main()
