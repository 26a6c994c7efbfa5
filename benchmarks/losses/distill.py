"""What a distilled step costs beside the work that it cannot avoid.

Claims: a step of ``sartor.distill`` takes at most 1.05 times as long as the same step on labels
alone plus the teacher's forward pass; with cached logits it takes at most 1.1 times as long as the
step on labels alone, reading the cache included. A step is fetching the batch, forward, loss,
backward and AdamW's update. All are timed in turn in one run, in eager mode on one thread; judged
is the median over rounds of the ratio within a round, as what disturbs a round disturbs its calls
alike; the interval holds the true median in 95 of 100 runs. Writes
benchmarks/results/distill.json.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from sartor.core.files import write_json
from sartor.data.memory import ImageTensors, train_loader
from sartor.losses import FeatureTaps, Outputs, VanillaKD
from sartor.measure import environment
from sartor.nn import tiny_vit
from sartor.nn.sources import seeded
from sartor.train import cache_teacher
from sartor.train.distill import StudentAndLoss
from sartor.train.teacher import Teacher

LIVE, CACHED = 1.05, 1.1
RESULTS = Path(__file__).parents[1] / "results" / "distill.json"
ROUNDS = 120
BATCH, IMAGES, SIZE, PATCH = 32, 512, 32, 4
STUDENT = {"embed_dim": 96, "depth": 4, "num_heads": 4}
TEACHER = {"embed_dim": 192, "depth": 6, "num_heads": 4}


def vit(seed: int, **widths: int) -> nn.Module:
    with seeded(seed):
        return tiny_vit(img_size=SIZE, patch_size=PATCH, in_chans=3, num_classes=100, **widths)


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(100, (IMAGES,), generator=generator)
    kept = ImageTensors(images, labels, mean=torch.zeros(3), std=torch.ones(3))
    return train_loader(kept, count=IMAGES, batch_size=BATCH, workers=0)


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


class Student:
    """A student with its optimiser and its batches."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.model = vit(0, **STUDENT).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.batches = endless(loader)

    def update(self, value: torch.Tensor) -> None:
        value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def steps(folder: Path, stack: ExitStack) -> dict[str, Callable[[], None]]:
    """The calls that are compared; each trains a student of its own."""
    teacher = vit(1, **TEACHER).eval()
    cache = cache_teacher(teacher, data(), folder, batch_size=BATCH)
    plain, live, cached = Student(data()), Student(data()), Student(cache.beside(data()))
    held = data()
    inputs = next(iter(held))[0]

    def on_labels() -> None:
        x, y = next(plain.batches)
        plain.update(F.cross_entropy(plain.model(x), y))

    def forward() -> None:
        with torch.no_grad():
            teacher(inputs)

    def distilled(student: Student, taught_by: Teacher) -> Callable[[], None]:
        taps = stack.enter_context(FeatureTaps(student.model, ()))
        pair = StudentAndLoss(student.model, VanillaKD(), taps)

        def step() -> None:
            x, y, *logits = next(student.batches)
            student.update(pair(x, y, taught_by(x, *logits)))

        return step

    assert isinstance(Teacher(teacher)(inputs), Outputs)
    return {
        "labels alone": on_labels,
        "teacher forward": forward,
        "distilled": distilled(live, Teacher(teacher)),
        "cached": distilled(cached, Teacher(None, cache=cache)),
    }


def timed(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; the order within a round changes every time."""
    orders = list(itertools.permutations(calls))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-5, rounds):
        for name in orders[7 * number % len(orders)]:
            started = time.perf_counter()
            calls[name]()
            if number >= 0:  # the first rounds warm up
                times[name].append(time.perf_counter() - started)
    return times


def ratio(numerator: list[float], denominator: list[float]) -> tuple[float, list[float]]:
    """Median of the ratios within a round, and its 95 % interval."""
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    margin, middle = round(0.98 * len(ratios) ** 0.5), len(ratios) // 2
    return statistics.median(ratios), [ratios[middle - margin], ratios[middle + margin]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        times = timed(steps(Path(folder), stack), rounds)
    floor = [a + b for a, b in zip(times["labels alone"], times["teacher forward"], strict=True)]
    live, live_interval = ratio(times["distilled"], floor)
    cached, cached_interval = ratio(times["cached"], times["labels alone"])
    result = {
        "claim": f"distilled <= {LIVE} x (labels alone + teacher forward); cached <= {CACHED} x "
        "labels alone",
        "date": date.today().isoformat(),
        "threads": 1,
        "seed": 0,
        "rounds": rounds,
        "runtime": "eager",
        "student": STUDENT,
        "teacher": TEACHER,
        "batch": BATCH,
        "median_ms": {k: 1e3 * statistics.median(v) for k, v in times.items()},
        "distilled_over_floor": live,
        "distilled_over_floor_interval": live_interval,
        "cached_over_labels_alone": cached,
        "cached_over_labels_alone_interval": cached_interval,
        "passed": live <= LIVE and cached <= CACHED,
        "environment": environment(),
    }
    print(json.dumps(result, indent=1))
    write_json(RESULTS, result)


if __name__ == "__main__":
    main()
