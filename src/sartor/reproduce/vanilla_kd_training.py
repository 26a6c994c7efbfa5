"""Vanilla KD's evidence, first half: one teacher, and students of every loss in every regime; no
choice reads the reported split.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Task
from sartor.core.packages import require
from sartor.data.memory import ImageTensors, train_loader, whole_loader
from sartor.data.split import hold_out
from sartor.losses import DistillationLoss, Outputs, VanillaKD, dist_loss, dkd_loss
from sartor.nn.sources import seeded
from sartor.train import TrainSettings, distill, train

__all__ = [
    "DIST",
    "DKD",
    "FULL",
    "HEAVY",
    "KD",
    "LABELS",
    "QUICK",
    "Regime",
    "Trained",
    "losses_of",
    "train_all",
]

LABELS = "labels alone"
KD = "vanilla KD"
HEAVY = "vanilla KD, teacher weight 4"
DKD = "DKD (1, 2)"
DIST = "DIST (1, 1)"
IMAGES, SELECTION, VALIDATION, BATCH = 897, 300, 600, 64
NOISE, SHIFT = 0.05, 1
TEACHER = TrainSettings(epochs=30, lr=5e-3, weight_decay=0.01)


@dataclass(frozen=True, kw_only=True)
class Regime:
    """How much a student gets to see.

    Attributes:
        name: of the regime.
        images: that it trains on, at most 897.
        steps: of training, on batches of 64.
        lr: of every student: the best of 3e-3, 1e-2 and 3e-2 for labels alone on the selection
            split of seeds 0 and 1.
        augmented: whether each step shows shifted images with noise instead of the same ones.
    """

    name: str
    images: int
    steps: int
    lr: float
    augmented: bool = False


SMALL = Regime(name="small", images=100, steps=200, lr=1e-2)
MIDDLE = Regime(name="middle", images=IMAGES, steps=200, lr=3e-2)
LARGE = Regime(name="large", images=IMAGES, steps=600, lr=1e-2, augmented=True)
FULL = (SMALL, MIDDLE, LARGE)
QUICK = (
    SMALL,
    Regime(name="middle", images=IMAGES, steps=100, lr=3e-2),
    Regime(name="large", images=IMAGES, steps=200, lr=1e-2, augmented=True),
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One student after its training: accuracy on both splits, and CPU seconds."""

    accuracy: float
    selection: float
    seconds: float


class _Beside(DistillationLoss):
    """Labels and one refinement of the loss against the teacher, both with weight 1."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        mine, wanted = student.logits, teacher.logits
        taught = dkd_loss(mine, wanted, targets) if self.name == DKD else dist_loss(mine, wanted)
        return F.cross_entropy(mine, targets) + taught


def losses_of() -> dict[str, DistillationLoss]:
    """Every loss of the comparison; without a teacher it is vanilla KD with weight 0."""
    return {
        LABELS: VanillaKD(teacher_weight=0.0),
        KD: VanillaKD(),
        HEAVY: VanillaKD(teacher_weight=4.0),
        DKD: _Beside(DKD),
        DIST: _Beside(DIST),
    }


class Shifted(ImageTensors):
    """Images moved by up to one pixel with a little noise, drawn anew from the global state."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        images, labels = super().__getitems__(indices)
        count, size = len(images), images.shape[-1]
        rows, columns = torch.randint(2 * SHIFT + 1, (2, count, 1)) + torch.arange(size)
        padded = F.pad(images, (SHIFT,) * 4)[:, 0]  # (B, H + 2, W + 2)
        item = torch.arange(count).view(-1, 1, 1)
        moved = padded[item, rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1)  # (B, 1, H, W)
        return moved + NOISE * torch.randn(moved.shape), labels


@dataclass(frozen=True)
class Digits:
    """The digits of one seed: pixels in 0..1, split three ways."""

    train: tuple[Tensor, Tensor]
    selection: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, seed: int) -> Digits:
        """Split by seed: 897 images train, 300 select, 600 are reported."""
        bunch = require("sklearn.datasets").load_digits()
        images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(bunch.target, dtype=torch.int64)
        rest, validation = hold_out(labels, VALIDATION, seed=seed)
        kept, held = hold_out(labels[rest], SELECTION, seed=seed)
        parts = (rest[kept], rest[held], validation)
        return cls(*((images[part], labels[part]) for part in parts))

    def task(self, regime: Regime) -> Task:
        """What a student of that regime trains on."""
        images, labels = (part[: regime.images] for part in self.train)
        data = _in_memory(images, labels, Shifted if regime.augmented else ImageTensors)
        held = {
            name: whole_loader(_in_memory(*part), batch_size=600, workers=0)
            for name, part in (("selection", self.selection), ("validation", self.validation))
        }
        return Task(
            name=f"digits, {regime.name}",
            train=train_loader(data, count=len(images), batch_size=BATCH, workers=0),
            example=images[:1],
            num_classes=10,
            **held,
        )


def train_all(
    seed: int, regimes: Sequence[Regime]
) -> tuple[float, Mapping[str, Mapping[str, Trained]]]:
    """Train the teacher, then a student for each loss in each regime, all from the same weights.

    Returns:
        Accuracy of the teacher on the reported split; regime -> loss -> student.
    """
    digits = Digits.of(seed)
    teacher = _taught(digits, seed)
    found: dict[str, dict[str, Trained]] = {}
    for regime in regimes:
        task = digits.task(regime)
        found[regime.name] = {
            name: _student(teacher, task, loss, regime, seed) for name, loss in losses_of().items()
        }
    return _accuracy(teacher, task, "validation"), found


def _taught(digits: Digits, seed: int) -> nn.Module:
    task = digits.task(LARGE)
    with seeded(seed):
        teacher = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(128, 10)),
        )
    settings = TrainSettings(**{**vars(TEACHER), "seed": seed})
    train(teacher, task.train, _cross_entropy, settings)
    return teacher


def _student(
    teacher: nn.Module, task: Task, loss: DistillationLoss, regime: Regime, seed: int
) -> Trained:
    with seeded(seed + 1000):
        student = nn.Sequential(
            *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64, 10)),
        )
    epochs = -(-regime.steps // max(regime.images // BATCH, 1))
    settings = TrainSettings(epochs=epochs, lr=regime.lr, weight_decay=0.0, seed=seed)
    began = time.process_time()
    distill(student, teacher, task, loss=loss, settings=settings)
    return Trained(
        accuracy=_accuracy(student, task, "validation"),
        selection=_accuracy(student, task, "selection"),
        seconds=time.process_time() - began,
    )


def _in_memory(
    images: Tensor, labels: Tensor, kind: type[ImageTensors] = ImageTensors
) -> ImageTensors:
    return kind(images, labels, mean=torch.zeros(1), std=torch.ones(1))


def _cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), targets)


@torch.inference_mode()
def _accuracy(model: nn.Module, task: Task, split: str) -> float:
    return float(task.evaluate(model.eval(), getattr(task, split)))
