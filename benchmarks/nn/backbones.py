"""Whole backbones beside timm's of about equal ImageNet accuracy, eager and in ONNX Runtime.

    OMP_NUM_THREADS=1 python benchmarks/nn/backbones.py [--classes 70 82]

224 x 224 images, random weights, batch 1 and 32, one and two threads. All models of a class are
timed in turn in one run; ratios are to the first, a model of timm's. At batch 1 the median of seven
rounds is taken, at batch 32 the faster of two runs; a cell is left out if a run would take more
than ten seconds. Nothing is judged: the table says where ours are slower. Writes
benchmarks/results/backbones.json and the tables of docs/backbones.md after each class; classes that
were not asked for keep their rows.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

from sartor.core import Target
from sartor.core.files import read_json, write_json, write_text
from sartor.measure import count_flops, count_params, environment, latency
from sartor.nn import fold
from sartor.nn.from_timm import create_timm
from sartor.nn.sources import seeded
from sartor.runtime import OnnxModule, target_threads, to_onnx

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "backbones.json"
PAGE = ROOT / "docs" / "backbones.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
RUNTIMES, BATCHES, THREADS = ("eager", "onnxruntime"), (1, 32), (1, 2)
ROUNDS, LONGEST = 7, 10.0
TIMM, PAPER = "timm", "paper"


@dataclass(frozen=True)
class Model:
    """One row: top-1 is the published accuracy, ``source`` whose.

    timm's are those of its results/results-imagenet.csv at 224 pixels, of the weights ``tag``.
    """

    name: str
    top1: float
    source: str = PAPER
    tag: str = ""
    folded: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} (folded)" if self.folded else self.name

    def made(self) -> nn.Module:
        with seeded(0):
            model = create_timm(self.name, {}).eval()
        return fold(model, images(2)) if self.folded else model


def of_timm(name: str, top1: float, tag: str) -> Model:
    return Model(name, top1, TIMM, tag)


#: about how accurate -> the models, the one that ratios are to first
CLASSES = {
    "70": (
        of_timm("pvt_v2_b0", 70.7, "in1k"),
        of_timm("resnet18", 70.8, "gluon_in1k"),
        Model("ecoformer_pvt_v2_b0", 70.4),
        Model("spvit_deit_tiny", 70.7),
        Model("hvt_tiny_1", 69.6),
    ),
    "75": (
        of_timm("mobilenetv2_110d", 75.1, "ra_in1k"),
        of_timm("resnet34", 75.2, "bt_in1k"),
        Model("mobilenetv2_100_metapool", 74.6),
        Model("hvt_small_4", 75.2),
    ),
    "77": (
        of_timm("mobilenetv3_large_100", 76.3, "ra4_e3600_r224_in1k"),
        of_timm("ghostnetv3_100", 76.9, "in1k"),
        Model("ghostnetv3_100", 77.1, folded=True),
    ),
    "78": (
        of_timm("pvt_v2_b1", 78.7, "in1k"),
        Model("ecoformer_pvt_v2_b1", 78.4),
        Model("spvit_deit_small", 78.3),
        Model("hvt_small_1", 78.0),
    ),
    "79": (
        of_timm("deit_small_patch16_224", 79.9, "fb_in1k"),
        of_timm("mixer_b16_224", 76.6, "goog_in21k_ft_in1k"),
        Model("sparse_mlp_large", 79.2),
    ),
    "82": (
        of_timm("pvt_v2_b2", 82.1, "in1k"),
        of_timm("swin_tiny_patch4_window7_224", 81.4, "ms_in1k"),
        Model("litv2_small", 82.0),
        Model("lit_small", 81.5),
        Model("lit_ti", 81.1),
    ),
    "84": (
        of_timm("deit3_base_patch16_224", 83.8, "fb_in1k"),
        Model("bamboo_base_patch16_224", 84.2),
    ),
}

Cell = tuple[str, int, int]  # runtime, batch, threads
Call = Callable[[Tensor], object]


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def best_of_two(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of the faster of two runs, which go through the calls there and back."""
    taken = dict.fromkeys(calls, float("inf"))
    for name in [*calls, *reversed(calls)]:
        began = time.perf_counter()
        calls[name]()
        taken[name] = min(taken[name], (time.perf_counter() - began) * 1e3)
    return taken


def timed(calls: dict[str, Call], batch: int, threads: int) -> dict[str, float]:
    inputs = images(batch)
    bound = {name: (lambda call=call: call(inputs)) for name, call in calls.items()}
    with target_threads(Target(threads=threads)), torch.inference_mode():
        if batch > 1:
            return best_of_two(bound)
        times = latency(bound, rounds=ROUNDS, min_seconds=0.0, warmup=1)
        return {name: one.median_ms for name, one in times.items()}


def rows_of(name: str, folder: Path) -> list[dict]:
    models = {model.label: model.made() for model in CLASSES[name]}
    for label, module in models.items():
        to_onnx(module, images(1), folder / f"{label}.onnx")
    cells: dict[str, dict[Cell, float]] = {label: {} for label in models}
    for runtime, threads, batch in itertools.product(RUNTIMES, THREADS, BATCHES):
        calls: dict[str, Call] = {}
        for label, module in models.items():
            single = cells[label].get((runtime, 1, threads), 0.0)
            if batch * single > LONGEST * 1e3:
                continue
            path = folder / f"{label}.onnx"
            calls[label] = module if runtime == "eager" else OnnxModule(path, threads)
        for label, ms in timed(calls, batch, threads).items():
            cells[label][runtime, batch, threads] = ms
    first = CLASSES[name][0].label
    return [
        {
            "class": name,
            "model": model.label,
            "top1": model.top1,
            "accuracy_of": model.source,
            "tag": model.tag,
            "params": count_params(models[model.label]),
            "macs": count_flops(models[model.label], images(1)) / 2,
            "cells": [
                {
                    "runtime": cell[0],
                    "batch": cell[1],
                    "threads": cell[2],
                    "ms": ms,
                    "over_timm": ms / cells[first][cell] if cell in cells[first] else None,
                }
                for cell, ms in cells[model.label].items()
            ],
        }
        for model in CLASSES[name]
    ]


def shown(row: dict, cell: Cell) -> str:
    """Milliseconds an image, and their share of those of the class's first model."""
    found = [c for c in row["cells"] if (c["runtime"], c["batch"], c["threads"]) == cell]
    if not found:
        return "over 10 s"
    ms, share = found[0]["ms"] / found[0]["batch"], found[0]["over_timm"]
    return f"{ms:.3g} ({share:.2f})" if share is not None else f"{ms:.3g}"


def table(rows: list[dict], runtime: str) -> str:
    settings = [(runtime, batch, threads) for batch in BATCHES for threads in THREADS]
    heads = [f"batch {batch}, {threads} thr." for _, batch, threads in settings]
    lines = [
        f"| class | model | top-1 | M params | GMACs | {' | '.join(heads)} |",
        f"| --- | --- | --- | --- | --- |{' --- |' * len(heads)}",
    ]
    for row in rows:
        name = f"`{row['model']}`" + (" (timm)" if row["accuracy_of"] == TIMM else "")
        facts = f"{row['top1']:.1f} | {row['params'] / 1e6:.1f} | {row['macs'] / 1e9:.2f}"
        cells = " | ".join(shown(row, cell) for cell in settings)
        lines.append(f"| {row['class']} | {name} | {facts} | {cells} |")
    return "\n".join(lines)


def save(rows: list[dict]) -> None:
    write_json(
        RESULTS,
        {
            "claim": "latency of whole backbones beside timm's of equal accuracy; not judged",
            "date": date.today().isoformat(),
            "seed": 0,
            "rounds": ROUNDS,
            "rows": rows,
            "environment": environment(),
        },
    )
    tables = "\n\n".join(
        f"Milliseconds an image in `cpu/{runtime}`:\n\n{table(rows, runtime)}"
        for runtime in RUNTIMES
    )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    write_text(PAGE, f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=list(CLASSES))
    known = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    rows = {name: [row for row in known if row.get("class") == name] for name in CLASSES}
    for name in parser.parse_args().classes:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = rows_of(name, Path(folder))
        for row in rows[name]:
            print(json.dumps(row), flush=True)
        save([row for name in CLASSES for row in rows[name]])


if __name__ == "__main__":
    main()
