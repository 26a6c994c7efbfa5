"""Accuracy that conversions of trained transformers lose and regain, and what they do to latency.

Accuracy: the largest net of ``sartor fit``'s demo is trained on its task (digits with noise),
converted by each move of ``fit`` with its default settings, and recovered as ``fit`` recovers, over
2 epochs (its default) and over 10; the unconverted net is trained on alike. Each accuracy is on the
validation data, on which nothing is chosen, mean over seeds 0 to 2. Latency: that net, and DeiT-Ti
with random weights at 196 and 784 patches (SPViT there in its published architecture), on one
thread, eager and in ONNX Runtime, in turn in one run with the unconverted net. Nothing is asked:
both tables are reported. Writes benchmarks/results/conversions.json and the tables of
docs/conversions.md.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.compress.ecoformer import EcoConfig, hash_attention_
from sartor.compress.hvt import TokenPoolConfig, pool_tokens_
from sartor.compress.litv2 import HiLoConfig, swap_attention_
from sartor.compress.spvit import compact_
from sartor.compress.spvit_search import Architecture
from sartor.core import Move, MoveContext, Target, Task
from sartor.core.files import read_json, write_json, write_text
from sartor.data import digits_task
from sartor.fit import FitSettings
from sartor.fit.demo import DEMO_MEMBERS
from sartor.fit.teaching import Teaching
from sartor.measure import count_flops, count_params, environment, latency
from sartor.moves.ecoformer import EcoMove
from sartor.moves.hvt import TokenPoolMove
from sartor.moves.litv2 import HiLoMove
from sartor.moves.spvit import SPViTMove
from sartor.nn import tiny_vit
from sartor.nn.sources import seeded
from sartor.nn.spvit.backbone import BACKBONES
from sartor.runtime import OnnxModule, to_onnx
from sartor.train import train

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "conversions.json"
PAGE = ROOT / "docs" / "conversions.md"
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"
SEEDS, EPOCHS, BATCHES = (0, 1, 2), (2, 10), (1, 32)
#: the demo's largest net, with the seed of each row
SIZES, TRAINING = DEMO_MEMBERS["vit-64"]
PLAIN = "none"
MOVES: dict[str, Callable[[], Move]] = {
    "HiLo": HiLoMove,
    "EcoFormer": EcoMove,
    "SPViT": SPViTMove,
    "HVT pooling": TokenPoolMove,
}


def accuracies(seed: int) -> list[dict]:
    """Of the net and its conversions, one row each."""
    task = digits_task(seed=seed)
    with seeded(seed):
        model = tiny_vit(**SIZES)
    settings = replace(TRAINING, seed=seed)
    train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
    made = {PLAIN: (model, {})}
    with tempfile.TemporaryDirectory() as folder:
        context = MoveContext(
            task=task,
            target=Target.parse("cpu/eager"),
            folder=Path(folder),
            deployed=None,
            recover=lambda _model: None,
        )
        for move, kind in MOVES.items():
            result = kind().apply(model, context)
            made[move] = (result.model.eval(), dict(result.step.plan))
        return [
            {
                "conversion": move,
                "seed": seed,
                "params": count_params(net),
                "flops": count_flops(net, task.example),
                "straight": task.evaluate(net, task.validation),
                **{f"after_{n}": recovered(net, model, task, n, Path(folder)) for n in EPOCHS},
                "plan": plan if move == "SPViT" else {},
            }
            for move, (net, plan) in made.items()
        ]


def recovered(net: nn.Module, teacher: nn.Module, task: Task, epochs: int, folder: Path) -> float:
    """Accuracy after the recovery of ``fit``."""
    student = copy.deepcopy(net)
    Teaching(teacher, task, FitSettings(recovery_epochs=epochs), folder).recover(student)
    return task.evaluate(student, task.validation)


def converted(model: nn.Module, images: Tensor, architecture: Architecture) -> dict[str, nn.Module]:
    """A net and its conversions; where their weights play no part in the time, they are random."""
    nets = {move: copy.deepcopy(model) for move in (PLAIN, *MOVES)}
    swap_attention_(nets["HiLo"], images[:1], HiLoConfig())
    hash_attention_(nets["EcoFormer"], images, EcoConfig(steps=1))
    compact_(nets["SPViT"], architecture)
    pool_tokens_(nets["HVT pooling"], images[:1], TokenPoolConfig())
    return {move: net.eval() for move, net in nets.items()}


def latencies(rows: list[dict]) -> list[dict]:
    """Of each net, runtime and batch, one row for all conversions."""
    plan = next(row["plan"] for row in rows if row["conversion"] == "SPViT")
    with seeded(0):
        model, images = tiny_vit(**SIZES), torch.randn(2, 1, 8, 8)
    found = timed("the demo's", model, images, Architecture.from_dict(plan), BATCHES)
    tiny = BACKBONES[0].kwargs
    published = Architecture(
        kinds=tiny["kinds"], units=tuple(tuple(range(width)) for width in tiny["widths"])
    )
    for side in (16, 8):
        with seeded(0):
            model = timm.create_model("deit_tiny_patch16_224", patch_size=side)
        images = torch.randn(2, 3, 224, 224)
        found += timed(f"DeiT-Ti, {(224 // side) ** 2} patches", model, images, published, (1,))
    return found


def timed(
    name: str,
    model: nn.Module,
    images: Tensor,
    architecture: Architecture,
    batches: tuple[int, ...],
) -> list[dict]:
    nets, rows = converted(model.eval(), images, architecture), []
    flops = {move: count_flops(net, images[:1]) for move, net in nets.items()}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        paths = {move: Path(folder) / f"{number}.onnx" for number, move in enumerate(nets)}
        for move, net in nets.items():
            to_onnx(net, images[:1], paths[move])
        deployed = {move: OnnxModule(path, threads=1) for move, path in paths.items()}
        for runtime, runs in (("eager", nets), ("onnxruntime", deployed)):
            for batch in batches:
                x = torch.randn(batch, *images.shape[1:])
                calls = {move: (lambda run=run, x=x: run(x)) for move, run in runs.items()}
                times = latency(calls, rounds=9, min_seconds=0.5, warmup=2)
                rows.append(
                    {
                        "net": name,
                        "runtime": runtime,
                        "batch": batch,
                        "ms": {move: one.median_ms for move, one in times.items()},
                        "iqr_ms": {move: one.iqr_ms for move, one in times.items()},
                        "over_plain": {
                            move: one.median_ms / times[PLAIN].median_ms
                            for move, one in times.items()
                        },
                        "flops_over_plain": {m: count / flops[PLAIN] for m, count in flops.items()},
                    }
                )
                print(name, runtime, batch, rows[-1]["over_plain"], flush=True)
    return rows


def accuracy_table(rows: list[dict]) -> str:
    columns = ("straight", *(f"after_{n}" for n in EPOCHS))
    titles = ("straight after", *(f"recovered, {n} epochs" for n in EPOCHS))
    lines = [
        f"| conversion | parameters | FLOPs | {' | '.join(titles)} |",
        f"| --- | --- | --- |{' --- |' * len(titles)}",
    ]
    plain = [row for row in rows if row["conversion"] == PLAIN]
    for move in (PLAIN, *MOVES):
        own = [row for row in rows if row["conversion"] == move]
        shares = [
            statistics.mean(o[key] / p[key] for o, p in zip(own, plain, strict=True))
            for key in ("params", "flops")
        ]
        cells = [spread([100 * row[column] for row in own]) for column in columns]
        counted = f"{shares[0]:.2f} | {shares[1]:.2f}"
        lines.append(f"| {move} | {counted} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def latency_table(rows: list[dict]) -> str:
    lines = [
        f"| net | runtime | batch | unconverted | {' | '.join(MOVES)} |",
        f"| --- | --- | --- | --- |{' --- |' * len(MOVES)}",
    ]
    for row in rows:
        cells = [f"{row['over_plain'][m]:.2f} ({row['flops_over_plain'][m]:.2f})" for m in MOVES]
        first = f"{row['net']} | {row['runtime']} | {row['batch']} | {row['ms'][PLAIN]:.3g} ms"
        lines.append(f"| {first} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page(tables: dict[str, str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    write_text(PAGE, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--part",
        choices=("all", "accuracy", "latency"),
        default="all",
        help="what to measure; the rest of the results stays as it is",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="to measure anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = read_json(RESULTS) if RESULTS.exists() else {}
    rows, times = kept.get("accuracy", []), kept.get("latency", [])
    if args.part != "latency":
        rows = [row for row in rows if row["seed"] not in args.seeds]
        for seed in args.seeds:
            rows += accuracies(seed)
            for row in rows[-1 - len(MOVES) :]:
                print({k: v for k, v in row.items() if k != "plan"}, flush=True)
        rows.sort(key=lambda row: row["seed"])
    if args.part != "accuracy":
        times = latencies(rows)
    write_json(
        RESULTS,
        {
            "claim": "none: accuracy lost and regained by conversions, latency before and after",
            "date": date.today().isoformat(),
            "seeds": sorted({row["seed"] for row in rows}),
            "accuracy": rows,
            "latency": times,
            "environment": environment(),
        },
    )
    write_page({"accuracy": accuracy_table(rows), "latency": latency_table(times)})


if __name__ == "__main__":
    main()
