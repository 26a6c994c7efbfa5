"""Distillers over all six directed pairs of CNN, ViT and MLP, on real small images.

One command trains, for each seed, three teachers on 897 handwritten digits and, on half of these,
students of every kind alone and under each teacher with each loss; all of them with the same steps,
rate and gradient bound. Settings are those of the methods' pages; nothing is tuned on the test
images. Writes benchmarks/results/pairs.json and the table of docs/distillation-pairs.md.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from sartor.core.files import write_json, write_text
from sartor.losses.distiller import DistillationLoss
from sartor.losses.hint import HintKD
from sartor.losses.manifold_kd import ManifoldKD
from sartor.losses.ofa_kd import OfaKD
from sartor.measure import environment
from sartor.reproduce.distillation_nets import KINDS, Net, made
from sartor.reproduce.distillation_training import Digits, accuracy, digits, distilled, taught

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "pairs.json"
PAGE = ROOT / "docs" / "distillation-pairs.md"
BEGIN, END = "<!-- table of benchmarks/losses/pairs.py -->", "<!-- end of the table -->"
TEACHER_EPOCHS, EPOCHS = 20, 30
#: the best of some for labels alone on the selection images of seed 0
LR = {"CNN": 1.6e-2, "ViT": 4e-3, "MLP": 6e-3}
TEACHER_LR = {"CNN": 2e-3, "ViT": 3e-3, "MLP": 2e-3}

#: pair, or ``teacher`` and a kind -> loss -> accuracy and CPU seconds
Seed = dict[str, dict[str, dict[str, float]]]

#: what each column minimises
LOSSES: dict[str, Callable[[Net, Net], DistillationLoss]] = {
    "KD": lambda student, teacher: OfaKD(()),  # its gradient is that of labels and KD at T = 1
    "hints": lambda student, teacher: HintKD(student.stages, teacher.stages),
    "OFA-KD": lambda student, teacher: OfaKD(student.stages, final_grid=2),
    # the features of the CNN whose maps are a grid of 4 x 4, as the tokens of the others are
    "manifold": lambda student, teacher: ManifoldKD(
        *zip(*_grids(student, teacher), strict=True), alpha=0.5
    ),
}


def _grids(student: Net, teacher: Net) -> list[tuple[str, str]]:
    """Stages of the same grid, paired from both ends."""
    count = min(len(student.grid), len(teacher.grid))
    ends = [*range(count // 2), *range(-(count // 2), 0)]
    return [(student.grid[i], teacher.grid[i]) for i in ends]


def student(
    kind: str, loss: Callable[[Net], DistillationLoss], teacher: Net, data: Digits, seed: int
) -> dict[str, float]:
    """Accuracy on the test images and CPU seconds of one training."""
    net = made(KINDS[kind][1], seed)
    started = time.process_time()
    distilled(net, teacher, loss(net), data.students, epochs=EPOCHS, lr=LR[kind], seed=seed)
    seconds = time.process_time() - started
    return {"accuracy": accuracy(net.model, data.test), "seconds": seconds}


def one_seed(seed: int) -> Seed:
    """Train all teachers and all students of one seed."""
    data = digits(seed)
    found: Seed = {}
    teachers = {}
    for kind, (make, _) in KINDS.items():
        net = made(make, seed)
        taught(net, data.teachers, epochs=TEACHER_EPOCHS, lr=TEACHER_LR[kind], seed=seed)
        teachers[kind] = net
        found[f"teacher {kind}"] = {"labels": {"accuracy": accuracy(net.model, data.test)}}
    for kind in KINDS:
        alone = student(
            kind, lambda net: OfaKD((), weights=(1.0, 0.0, 0.0)), teachers[kind], data, seed
        )
        for other, teacher in teachers.items():
            if other == kind:
                continue
            found[f"{other} -> {kind}"] = row = {"no teacher": alone}
            for name, make_loss in LOSSES.items():
                row[name] = student(
                    kind, lambda net, m=make_loss, t=teacher: m(net, t), teacher, data, seed
                )
            shown = {name: round(value["accuracy"], 3) for name, value in row.items()}
            print(f"seed {seed}: {other} -> {kind}", json.dumps(shown), flush=True)
    return found


def table(seeds: list[Seed]) -> str:
    """Markdown: mean and standard deviation over seeds; bold is the best of a row."""
    names = ["no teacher", *LOSSES]
    lines = [
        f"| teacher -> student | teacher | {' | '.join(names)} |",
        "|" + " --- |" * (len(names) + 2),
    ]
    for pair in (key for key in seeds[0] if "->" in key):
        taught_to = [one[f"teacher {pair.split(' -> ')[0]}"]["labels"]["accuracy"] for one in seeds]
        values = {name: [one[pair][name]["accuracy"] for one in seeds] for name in names}
        means = {name: statistics.mean(v) for name, v in values.items()}
        best = max(means.values())
        cells = []
        for name, mean in means.items():
            text = f"{mean:.3f} ± {_deviation(values[name]):.3f}"
            cells.append(f"**{text}**" if mean == best else text)
        lines.append(f"| {pair} | {statistics.mean(taught_to):.3f} | {' | '.join(cells)} |")
    cost = [""]  # without a teacher: not timed, as all students here run beside one
    for name in LOSSES:
        rows = [one[pair] for one in seeds for pair in one if "->" in pair]
        ratio = statistics.median(row[name]["seconds"] / row["KD"]["seconds"] for row in rows)
        cost.append(f"{ratio:.2f} x")
    lines.append(f"| CPU time of training over KD's, median | | {' | '.join(cost)} |")
    return "\n".join(lines)


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    numbers = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    started = time.process_time()
    seeds: list[Seed] = []
    for number in numbers:
        seeds.append(one_seed(number))
        save(seeds, time.process_time() - started)  # after each, as this takes long
    print(table(seeds))


def save(seeds: list[Seed], cpu_seconds: float) -> None:
    """Write the results and put the table into its page."""
    write_json(
        RESULTS,
        {
            "claim": "none: a table of all losses over six directed pairs, to choose from",
            "data": "scikit-learn digits: 448 images train students, 897 teachers, 600 test",
            "date": date.today().isoformat(),
            "threads": 1,
            "epochs": EPOCHS,
            "teacher_epochs": TEACHER_EPOCHS,
            "lr": LR,
            "runtime": "eager",
            "seeds": len(seeds),
            "rows": [{"seed": seed, **found} for seed, found in enumerate(seeds)],
            "cpu_seconds": cpu_seconds,
            "environment": environment(),
        },
    )
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    write_text(PAGE, f"{before}{BEGIN}\n\n{table(seeds)}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
