"""What each way to train for less saves on one training job, alone and in pairs.

One ViT of two blocks learns handwritten digits, three seeds for each recipe, all with the same
start, data and schedule. Written down are: CPU seconds of the training, the highest number of bytes
that its steps take on top of the weights (activations, gradients and the optimiser's state, read
from the allocator), samples seen, and accuracy on the test images. Rates of optimisers other than
AdamW are chosen on the selection images of another seed. Results are kept after
each run, so that a stopped benchmark goes on. Writes benchmarks/results/recipes.json and the table
of docs/training-for-less.md.
"""

import argparse
import json
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import Target
from sartor.core.files import write_json, write_text
from sartor.data import digits_task
from sartor.measure import environment, peak_memory_bytes
from sartor.nn import tiny_vit
from sartor.train import Recipe, TrainSettings, train

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "recipes.json"
PAGE = ROOT / "docs" / "training-for-less.md"
BEGIN, END = "<!-- table of benchmarks/train/recipes.py -->", "<!-- end of the table -->"
EPOCHS, LR, BATCH, NOISE, SEEDS, CHOOSING_SEED = 12, 4e-3, 32, 0.3, 3, 100
#: factors of AdamW's rate that are tried on the selection images of another seed
CHOICES = {
    "came": (0.1, 0.3, 1.0),
    "adafactor": (1.0, 5.0),
    "lion": (0.1, 0.3),
    "muon": (1.0, 3.0),
}


def recipes(scales: dict[str, float]) -> dict[str, tuple[Recipe, int]]:
    """Name -> recipe and epochs; ``scales`` are the factors of the optimisers' rates."""

    def optimizer(name: str, **more: Any) -> Recipe:
        return Recipe(optimizer=name, lr_scale=scales[name], **more)

    pruned = {"data_pruning": "infobatch"}
    made = {
        "plain": Recipe(),
        "plain, 3/4 of the epochs": Recipe(),
        "InfoBatch": Recipe(**pruned),
        "late dropout 0.1": Recipe(late_dropout=0.1),
        "token drop 0.5 (timm)": Recipe(token_drop=0.5),
        "batch x 2": Recipe(batch_factor=2),
        "CAME": optimizer("came"),
        "Adafactor (torch)": optimizer("adafactor"),
        "Lion (timm)": optimizer("lion"),
        "Muon (timm)": optimizer("muon"),
        "AdamW, 8 bits (torchao)": Recipe(optimizer="adamw8bit"),
        "Mesa": Recipe(activations="mesa"),
        "checkpointing (torch)": Recipe(checkpointing="blocks"),
        "bf16 autocast (torch)": Recipe(precision="bf16"),
        "InfoBatch + CAME": optimizer("came", **pruned),
        "InfoBatch + Mesa": Recipe(activations="mesa", **pruned),
        "Muon + batch x 2": optimizer("muon", batch_factor=2),
        "InfoBatch + Muon": optimizer("muon", **pruned),
        "InfoBatch + batch x 2": Recipe(batch_factor=2, **pruned),
        "CAME + Mesa": optimizer("came", activations="mesa"),
        "CAME + checkpointing": optimizer("came", checkpointing="blocks"),
    }
    return {name: (r, EPOCHS * 3 // 4 if "3/4" in name else EPOCHS) for name, r in made.items()}


def losses(model, inputs, targets):
    return F.cross_entropy(model(inputs), targets, reduction="none")


def net(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return tiny_vit(embed_dim=48, depth=2, num_heads=4)


def settings(epochs: int, seed: int) -> TrainSettings:
    return TrainSettings(epochs=epochs, lr=LR, warmup_epochs=1, seed=seed)


def run(recipe: Recipe, epochs: int, seed: int, *, judged: str = "validation") -> dict[str, float]:
    """Train once: seconds of this process's CPU, samples, steps, accuracy."""
    task, model = digits_task(batch_size=BATCH, seed=seed, noise=NOISE), net(seed)
    started = time.process_time()
    history = train(model, task.train, losses, settings(epochs, seed), recipe=recipe)
    seconds = time.process_time() - started
    return {
        "seconds": seconds,
        "samples": sum(history.samples),
        "steps": sum(history.steps),
        "accuracy": task.evaluate(model, getattr(task, judged)),
    }


def peak_bytes(recipe: Recipe) -> int:
    """The most that two epochs of eight batches take on top of the weights."""
    data = TensorDataset(torch.randn(8 * BATCH, 1, 8, 8), torch.arange(8 * BATCH) % 10)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True)

    def once() -> None:
        train(model, loader, losses, settings(2, 0), recipe=recipe)

    model = net(0)
    once()
    peak = peak_memory_bytes(once, Target.parse("cpu/eager"))
    assert peak is not None
    return peak


def choose() -> dict[str, dict[str, float]]:
    """Selection accuracy of each optimiser at each factor of the rate."""
    found: dict[str, dict[str, float]] = {}
    for name, scales in CHOICES.items():
        for scale in scales:
            recipe = Recipe(optimizer=name, lr_scale=scale)
            one = run(recipe, EPOCHS, CHOOSING_SEED, judged="selection")
            found.setdefault(name, {})[str(scale)] = one["accuracy"]
        print(name, found[name], flush=True)
    return found


def table(rows: dict[str, dict]) -> str:
    """Markdown: means over seeds, accuracy with its standard deviation."""
    head = ("recipe", "CPU time", "peak bytes", "samples", "steps", "accuracy")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    mean = {
        name: {key: statistics.mean(r[key] for r in row["runs"]) for key in row["runs"][0]}
        for name, row in rows.items()
    }
    plain, least = mean["plain"], rows["plain"]["peak_bytes"]
    for name, row in rows.items():
        found = [r["accuracy"] for r in row["runs"]]
        spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
        cells = (
            name,
            f"{mean[name]['seconds'] / plain['seconds']:.2f} x",
            f"{row['peak_bytes'] / 1e6:.1f} MB ({row['peak_bytes'] / least:.2f} x)",
            f"{mean[name]['samples']:,.0f} ({mean[name]['samples'] / plain['samples']:.2f} x)",
            f"{mean[name]['steps']:.0f}",
            f"{mean[name]['accuracy']:.3f}{spread}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    seeds = len(rows["plain"]["runs"])
    lines.append(
        f"Plain takes {plain['seconds']:.1f} CPU seconds; {seeds} seed{'s' * (seeds > 1)}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, help="begin nothing after this")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + arguments.seconds
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.fresh else {}
    rows, chosen = kept.get("rows", {}), kept.get("selection") or choose()
    scales = {name: float(max(tried, key=tried.get)) for name, tried in chosen.items()}
    wanted = recipes(scales)
    for seed in range(SEEDS):
        for name, (recipe, epochs) in wanted.items():
            row = rows.setdefault(name, {"recipe": recipe.to_dict(), "runs": []})
            if len(row["runs"]) > seed or time.monotonic() > until:
                continue
            row["runs"].append(run(recipe, epochs, seed))
            if "peak_bytes" not in row:
                row["peak_bytes"] = peak_bytes(recipe)
            print(name, json.dumps(row["runs"][-1]), row["peak_bytes"], flush=True)
            write_json(RESULTS, {"selection": chosen, "rows": rows})
    wanted = {name: recipe for name, recipe in wanted.items() if rows[name]["runs"]}
    done = min(len(rows[name]["runs"]) for name in wanted)
    record = {
        "claim": "none: a table to choose from",
        "baseline": "plain",
        "data": f"scikit-learn digits with noise {NOISE}: 1000 images train, 597 x 3 test",
        "date": date.today().isoformat(),
        "threads": 1,
        "epochs": EPOCHS,
        "batch": BATCH,
        "lr": LR,
        "selection": chosen,
        "runtime": "eager",
        "seeds": done,
        "environment": environment(),
    }
    write_json(RESULTS, {**record, "rows": {name: rows[name] for name in wanted}})
    rows = {name: {**rows[name], "runs": rows[name]["runs"][:done]} for name in wanted}
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    write_text(PAGE, f"{page[:start]}\n\n{table(rows)}\n\n{page[end:]}")


if __name__ == "__main__":
    main()
