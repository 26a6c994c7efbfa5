"""The stitching engines of ``fit`` side by side: one family, equally many steps, three seeds.

The family is two ViTs of widths 12 and 32 and depth 4 on noisy digits. Every engine trains 25
epochs with one configuration a step, each with the learning rate of its method's card. The
selection split chooses each frontier; what is reported comes from the validation split alone. Area
and points are those of the network alone, without the untouched anchors. Peak memory is that of one
training step on the costliest configuration: weights, the optimiser's two moments of what is
trained, and the highest sum of allocations in forward and backward. A difference is called noise
where its mean over seeds lies within its 95 % interval (Student's t, 2 degrees of freedom) around
zero. Writes benchmarks/results/engines.json and docs/stitching-engines.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core import Engine, Family, Target, Task
from sartor.core.files import write_json
from sartor.core.registry import engines
from sartor.fit import FitSettings
from sartor.fit.threads import training_threads
from sartor.losses import distillation_loss
from sartor.measure import count_params, environment, peak_memory_bytes
from sartor.reproduce.sn_net_training import Scored, score
from sartor.reproduce.sn_netv2_training import (
    ALPHA,
    FULL,
    INIT_IMAGES,
    Schedule,
    area,
    frontier,
    two_anchors,
)
from sartor.train import TrainSettings, train

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "engines.json"
PAGE = ROOT / "docs" / "stitching-engines.md"
SEEDS = (0, 1, 2)
#: engine -> the learning rate of its method's card
LEARNING_RATES = {"sn-net": 1e-3, "sn-netv2": 1e-3, "esta": 1e-2}
#: 97.5 % quantile of Student's t with 2 degrees of freedom
STUDENT = 4.303
COLUMNS = {
    "configurations": ("configurations", "{:.0f}"),
    "points": ("points on the frontier", "{:.1f}"),
    "area": ("area under it", "{:.4f}"),
    "trained": ("trained parameters", "{:,.0f}"),
    "seconds": ("CPU seconds to train", "{:.1f}"),
    "peak_mb": ("peak memory of a step, MB", "{:.2f}"),
}


def taught_by(teacher: nn.Module) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    def loss(student: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(inputs)
        return distillation_loss(student(inputs), targets, wanted, alpha=ALPHA)

    return loss


def measured(
    slug: str, family: Family, task: Task, seed: int, schedule: Schedule
) -> tuple[dict[str, Any], list[Scored]]:
    engine = FitSettings(engine=slug, seed=seed, init_samples=INIT_IMAGES).make_engine()
    assert engine is not None
    net: Any = engine.build(family, task)
    trained = [p for p in net.parameters() if p.requires_grad]
    settings = TrainSettings(
        epochs=schedule.joint, lr=LEARNING_RATES[slug], warmup_epochs=0.5, seed=seed
    )
    loss = taught_by(family.models[-1])
    peak = peak_bytes(net, task, loss, trained)
    started = time.process_time()
    train(
        net,
        task.train,
        loss,
        settings,
        frozen=(family.models[-1],),
        on_step=lambda step: engine.prepare_step(net, step),
        on_backward=lambda step: engine.after_backward(net, step),
    )
    seconds = time.process_time() - started
    points = scored(net, engine, task)
    row = {
        "engine": slug,
        "seed": seed,
        "configurations": len(net.configs),
        "points": len(frontier(points)),
        "trained": sum(p.numel() for p in trained),
        "seconds": seconds,
        "peak_mb": peak / 1e6,
    }
    return row, points


def scored(net: Any, engine: Engine, task: Task) -> list[Scored]:
    """What the engine would have ranked, each on both splits."""
    chosen = engine.shortlist(net)
    points = []
    for index in range(len(net.configs)) if chosen is None else chosen:
        net.set_config(index)
        points.append(score(net.configs[index].name, net, net.flops(index), task))
    return points


def peak_bytes(net: Any, task: Task, loss: Any, trained: Sequence[nn.Parameter]) -> int:
    """Of one training step on the costliest configuration."""
    net.set_config(max(range(len(net.configs)), key=net.flops))
    inputs, targets = next(iter(task.train))
    net.train()

    def step() -> None:
        loss(net, inputs, targets).backward()
        net.zero_grad()

    step()
    resident = 4 * (count_params(net) + 2 * sum(p.numel() for p in trained))
    peak = peak_memory_bytes(step, Target.parse("cpu/eager"), resident_bytes=resident)
    net.eval()
    assert peak is not None
    return peak


def spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def versus(rows: Sequence[Mapping[str, Any]], slug: str, base: str) -> dict[str, Any]:
    """Difference of the areas, seed by seed, and whether it is more than noise."""
    by = {name: [r["area"] for r in rows if r["engine"] == name] for name in (slug, base)}
    apart = [a - b for a, b in zip(by[slug], by[base], strict=True)]
    margin = STUDENT * spread(apart) / len(apart) ** 0.5
    mean = statistics.mean(apart)
    return {
        "engine": slug,
        "against": base,
        "difference": mean,
        "interval": margin,
        "noise": len(apart) < 3 or abs(mean) <= margin,
    }


def page(rows: Sequence[Mapping[str, Any]], duels: Sequence[Mapping[str, Any]], words: str) -> str:
    slugs = list(dict.fromkeys(row["engine"] for row in rows))
    head = ["engine", *(title for title, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for slug in slugs:
        cells = [f"[{slug}](methods/{slug}.md)"]
        for key, (_, form) in COLUMNS.items():
            values = [row[key] for row in rows if row["engine"] == slug]
            cell = form.format(statistics.mean(values))
            if spread(values):
                cell += f" ± {form.format(spread(values))}"
            cells.append(cell)
        lines.append(f"| {' | '.join(cells)} |")
    said = [
        f"- {d['engine']} against {d['against']}: area {d['difference']:+.4f} ± "
        f"{d['interval']:.4f}: " + ("within seed noise." if d["noise"] else "more than seed noise.")
        for d in duels
    ]
    return PAGE_TEXT.format(table="\n".join(lines), duels="\n".join(said), words=words)


PAGE_TEXT = """# Stitching engines side by side

Written by `python benchmarks/stitch/engines.py`; do not edit.

{table}

Mean ± standard deviation over seeds. {words}

Differences of the area, paired by seed, with the half width of the 95 % interval:

{duels}

The family is two ViTs of widths 12 and 32 and depth 4 on scikit-learn's digits with noise; each
engine stitches copies of the same trained pair and trains with one configuration a step, with the
learning rate of its method's card. The selection split chooses each frontier; points and areas are
of the validation split, over log10 of the FLOPs up to the costliest configuration of any engine and
above 0.1, the accuracy of guessing. The untouched anchors are not counted in. Peak memory is of one
training step (batch 64) on the costliest configuration: weights, the two moments of AdamW for what
is trained, and the allocations of forward and backward.

One small family on one small task: it says how the engines work, not which is best for yours.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    seeds = SEEDS[: parser.parse_args().seeds]
    slugs = [slug for slug in LEARNING_RATES if slug in engines()]
    rows = []
    with training_threads(params=0):
        for seed in seeds:
            family, task = two_anchors(seed, FULL)
            found = [measured(slug, family, task, seed, FULL) for slug in slugs]
            dearest = max(point.flops for _, points in found for point in points)
            rows += [{**row, "area": area(points, dearest)} for row, points in found]
            print(*rows[-len(slugs) :], sep="\n")
    duels = [versus(rows, slug, slugs[0]) for slug in slugs[1:]]
    steps = FULL.joint * 15
    words = (
        f"{len(seeds)} seeds, {steps} steps of joint training each ({FULL.joint} epochs), PyTorch "
        f"{torch.__version__.split('+')[0]}, one thread."
    )
    write_json(
        RESULTS,
        {
            "date": date.today().isoformat(),
            "threads": 1,
            "seeds": list(seeds),
            "schedule": vars(FULL),
            "learning_rates": {slug: LEARNING_RATES[slug] for slug in slugs},
            "rows": rows,
            "area_differences": duels,
            "environment": environment(),
        },
    )
    PAGE.write_text(page(rows, duels, words), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
