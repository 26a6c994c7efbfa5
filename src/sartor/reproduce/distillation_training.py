"""Evidence of distillers, the shared half: shifted digits, trained teachers and students."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.packages import require
from sartor.data.memory import statistics
from sartor.data.split import hold_out
from sartor.losses.distiller import DistillationLoss, Outputs
from sartor.losses.taps import FeatureTaps
from sartor.reproduce.distillation_nets import Net
from sartor.train import TrainSettings, train

__all__ = ["Digits", "Shifted", "accuracy", "digits", "distilled", "outputs", "taught"]

TEST, SELECTION, SMALLER = 600, 300, 448
BATCH, CLIP, WEIGHT_DECAY = 64, 5.0, 0.01
#: of the epochs, with a linear rise, as a one-cycle schedule has
WARMUP_SHARE = 0.3


class Shifted:
    """Batches of images, each shifted by up to one pixel either way; the last, smaller batch of an
    epoch is left out. Order and shifts follow torch's global generator.

    Args:
        images: (N, 1, H, W).
        labels: (N,).
        background: value that moves in at the border.
    """

    def __init__(self, images: Tensor, labels: Tensor, background: float) -> None:
        padded = F.pad(images, (1, 1, 1, 1), value=background)
        height, width = images.shape[2:]
        self.images = images
        self.labels = labels
        self.shifts = torch.stack(
            [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        )  # (9, N, 1, H, W)

    def __len__(self) -> int:
        return len(self.labels) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels))
        shift = torch.randint(9, (len(self.labels),))
        for chosen in order.split(BATCH)[: len(self)]:
            yield self.shifts[shift[chosen], chosen], self.labels[chosen]

    def some(self, count: int, seed: int) -> Shifted:
        """The same of about ``count`` of the images, every class in proportion."""
        chosen = hold_out(self.labels, count, seed=seed)[1]
        smaller = copy.copy(self)
        smaller.images, smaller.labels = self.images[chosen], self.labels[chosen]
        smaller.shifts = self.shifts[:, chosen]
        return smaller


@dataclass(frozen=True, kw_only=True)
class Digits:
    """scikit-learn's digits: 897 images for teachers, 448 of them for students, 300 to choose on,
    600 to report on; standardised, without noise.
    """

    teachers: Shifted
    students: Shifted
    selection: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def digits(seed: int) -> Digits:
    """Split the digits by the seed, every class in proportion."""
    bunch = require("sklearn.datasets").load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1)  # (N, 1, 8, 8)
    labels = torch.tensor(bunch.target, dtype=torch.int64)  # (N,)
    rest, test = hold_out(labels, TEST, seed=seed)
    kept, held = hold_out(labels[rest], SELECTION, seed=seed)
    train_set, selection = rest[kept], rest[held]
    mean, std = statistics(images[train_set])
    images = (images - mean) / std
    teachers = Shifted(images[train_set], labels[train_set], background=float(-mean / std))
    return Digits(
        teachers=teachers,
        students=teachers.some(SMALLER, seed),
        selection=(images[selection], labels[selection]),
        test=(images[test], labels[test]),
    )


def taught(net: Net, batches: Shifted, *, epochs: int, lr: float, seed: int) -> Net:
    """Train a network on labels alone, in place."""

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs), targets)

    train(net.model, batches, loss, _settings(epochs, lr, seed), on_backward=_clip(net.model))
    return net


def distilled(
    net: Net,
    teacher: Net,
    loss: DistillationLoss,
    batches: Shifted,
    *,
    epochs: int,
    lr: float,
    seed: int,
) -> None:
    """Train a network on a distillation loss, in place, with what the loss itself learns."""
    both = _WithLoss(net.model, loss)
    example = batches.images[:2]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net.model.eval()
        loss.prepare(
            outputs(net.model, loss.student_taps, example),
            outputs(teacher.model, loss.teacher_taps, example),
        )

    def step(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = outputs(teacher.model, loss.teacher_taps, inputs)
        value: Tensor = model(inputs, wanted, targets)
        return value

    settings = _settings(epochs, lr, seed)
    train(both, batches, step, settings, frozen=(teacher.model,), on_backward=_clip(both))


class _WithLoss(nn.Module):
    """A student and the loss that trains with it."""

    def __init__(self, student: nn.Module, loss: DistillationLoss) -> None:
        super().__init__()
        self.student, self.loss = student, loss

    def forward(self, inputs: Tensor, teacher: Outputs, targets: Tensor) -> Tensor:
        value: Tensor = self.loss(
            outputs(self.student, self.loss.student_taps, inputs), teacher, targets
        )
        return value


def outputs(model: nn.Module, taps: Sequence[str], inputs: Tensor) -> Outputs:
    """What a model says about one batch, with the features that a loss taps."""
    with FeatureTaps(model, taps) as kept:
        logits = model(inputs)
        return Outputs(logits, kept.take())


@torch.inference_mode()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of the images that a model classifies rightly, in eval mode."""
    images, labels = data
    return float((model.eval()(images).argmax(dim=1) == labels).float().mean())


def _settings(epochs: int, lr: float, seed: int) -> TrainSettings:
    return TrainSettings(
        epochs=epochs,
        lr=lr,
        weight_decay=WEIGHT_DECAY,
        warmup_epochs=WARMUP_SHARE * epochs,
        seed=seed,
    )


def _clip(model: nn.Module) -> Callable[[int], None]:
    """Bound the norm of the gradient of each step."""

    def clip(step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)

    return clip
