"""Claim: folded by sartor, GhostNetV3 is at least as fast as folded by timm, and faster than with
its training branches.

    OMP_NUM_THREADS=1 python benchmarks/nn/ghostnetv3.py

224 x 224 images, random weights, one thread; three forms of one network in turn in one run, in both
runtimes. Ratios are to timm's network as it trains.
"""

import json
import tempfile
from datetime import date
from pathlib import Path

import timm
import torch

from sartor.core import Target
from sartor.core.files import write_json
from sartor.measure import environment, latency
from sartor.nn.ghostnetv3.branches import fold
from sartor.nn.sources import seeded
from sartor.runtime import OnnxModule, target_threads, to_onnx

RESULTS = Path(__file__).parents[1] / "results" / "ghostnetv3.json"
NAME, BATCHES, ROUNDS = "ghostnetv3_100", (1, 32), 11


def forms():
    with seeded(0):
        model = timm.create_model(NAME).eval()
    example = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return {
        "branches (timm)": model,
        "folded by timm": timm.utils.reparameterize_model(model),
        "folded by sartor": fold(model, example),
    }


def rows_of(batch, folder):
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    calls = {}
    for name, model in forms().items():
        path = folder / f"{name}-{batch}.onnx"
        to_onnx(model, images, path)
        calls[name, "cpu/eager"] = lambda run=model: run(images)
        written = OnnxModule(path, 1)
        calls[name, "cpu/onnxruntime"] = lambda run=written: run(images)
    with target_threads(Target(threads=1)), torch.inference_mode():
        times = latency(calls, rounds=ROUNDS, min_seconds=0.0, warmup=2)
    for (name, runtime), one in times.items():
        over = one.median_ms / times["branches (timm)", runtime].median_ms
        row = {"batch": batch, "runtime": runtime, "form": name, "ms": one.median_ms}
        yield {**row, "iqr_ms": one.iqr_ms, "over_branches": over}


def main():
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for batch in BATCHES for row in rows_of(batch, Path(folder))]
    for row in rows:
        print(json.dumps(row), flush=True)
    facts = {"model": NAME, "threads": 1, "rounds": ROUNDS, "seed": 0}
    when = {"date": str(date.today()), "environment": environment()}
    write_json(RESULTS, {**facts, **when, "rows": rows})


if __name__ == "__main__":
    main()
