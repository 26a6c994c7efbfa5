"""Whole backbones beside timm's of about as many parameters, in eager mode and in ONNX Runtime.

224 x 224 images, random weights, batch 1, one thread. All models of a class are timed in turn in
one run, in both runtimes; ratios are to timm's model, the first of the class. Nothing is judged:
the table says where ours are slower. Writes benchmarks/results/backbones.json and the table of
docs/backbones.md, after each class.
"""

import json
import tempfile
from datetime import date
from pathlib import Path

import torch
from torch import nn

from sartor.core import Target
from sartor.core.files import write_json, write_text
from sartor.measure import count_flops, count_params, environment, latency
from sartor.nn.from_timm import create_timm
from sartor.nn.sources import seeded
from sartor.runtime import OnnxModule, target_threads, to_onnx

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "backbones.json"
PAGE = ROOT / "docs" / "backbones.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
#: timm's model first, then ours
CLASSES = (
    ("deit_small_patch16_224", "hvt_small_1"),
    ("swin_tiny_patch4_window7_224", "litv2_small"),
    ("vit_base_patch16_224", "bamboo_base_patch16_224"),
)
RUNTIMES = ("cpu/eager", "cpu/onnxruntime")
ROUNDS = 9
IMAGE = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def made(name: str) -> nn.Module:
    with seeded(0):
        return create_timm(name, {}).eval()


def rows_of(names: tuple[str, ...], folder: Path) -> list[dict]:
    models = {name: made(name) for name in names}
    calls = {}
    for name, model in models.items():
        to_onnx(model, IMAGE, folder / f"{name}.onnx")
        written = OnnxModule(folder / f"{name}.onnx", 1)
        calls[name, RUNTIMES[0]] = lambda run=model: run(IMAGE)
        calls[name, RUNTIMES[1]] = lambda run=written: run(IMAGE)
    with target_threads(Target(threads=1)), torch.inference_mode():
        times = latency(calls, rounds=ROUNDS, min_seconds=0.0, warmup=2)
    rows = [
        {
            "model": name,
            "runtime": runtime,
            "params": count_params(models[name]),
            "macs": count_flops(models[name], IMAGE) / 2,
            "ms": one.median_ms,
            "iqr_ms": one.iqr_ms,
            "over_timm": one.median_ms / times[names[0], runtime].median_ms,
        }
        for (name, runtime), one in times.items()
    ]
    for row in rows:
        print(json.dumps(row), flush=True)
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        f"| model | M parameters | GMACs | {' | '.join(RUNTIMES)} |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = {row["runtime"]: row for row in rows if row["model"] == name}
        first = mine[RUNTIMES[0]]
        facts = f"{first['params'] / 1e6:.1f} | {first['macs'] / 1e9:.2f}"
        cells = [f"{mine[r]['ms']:.0f} ms ({mine[r]['over_timm']:.2f})" for r in RUNTIMES]
        lines.append(f"| `{name}` | {facts} | {' | '.join(cells)} |")
    return "\n".join(lines)


def save(rows: list[dict]) -> None:
    write_json(
        RESULTS,
        {
            "claim": "latency of whole backbones beside timm's of as many parameters; not judged",
            "date": date.today().isoformat(),
            "seed": 0,
            "batch": 1,
            "threads": 1,
            "rounds": ROUNDS,
            "rows": rows,
            "environment": environment(),
        },
    )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    write_text(PAGE, f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.partition(END)[2]}")


def main() -> None:
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for names in CLASSES:
            rows += rows_of(names, Path(folder))
            save(rows)


if __name__ == "__main__":
    main()
