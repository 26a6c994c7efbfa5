"""Tasks: data, loss and metric that a family of models shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError

__all__ = ["Task", "accuracy", "classify"]


def classify(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, mean over the batch: logits (B, K), targets (B,) -> ()."""
    return F.cross_entropy(logits, targets)


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], batches: Iterable[Any]) -> float:
    """Share of inputs whose highest logit is the label; the model is called as it is, in its own
    mode.

    Args:
        model: maps (B, ...) to logits (B, K).
        batches: pairs of inputs (B, ...) and labels (B,).

    Raises:
        DataError: there is not one batch.
    """
    correct = seen = 0
    device = _device(model)
    for inputs, targets in batches:
        predicted = model(inputs.to(device)).argmax(dim=1).cpu()  # (B,)
        correct += int((predicted == targets.cpu()).sum())
        seen += len(targets)
    if not seen:
        raise DataError("The data to evaluate on is empty; give at least one batch.")
    return correct / seen


def _device(model: Callable[[Tensor], Tensor]) -> torch.device:
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return first.device if first is not None else torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the models are to do.

    Attributes:
        name: shown in reports.
        train: batches of (inputs, targets) to train on; iterated once an epoch.
        selection: batches held out of the training data, on which the planner makes every choice.
        validation: batches on which accuracy is reported; no choice of the planner reads them.
        example: inputs (1, ...) of the shape that the models take; only shape and dtype matter.
        num_classes: width of the logits, or ``None`` where the outputs are something else.
        loss: (outputs, targets) -> scalar.
        evaluate: (model, batches) -> quality, higher is better, in [0, 1] for accuracy.
        metric: name of what ``evaluate`` returns.
        classes: names of the classes, if they have any.
        preprocess: how a picture becomes an input: ``mean`` and ``std`` of each channel, of pixels
            in 0..1, after resizing; ``None`` where inputs are no pictures, or their scale is
            unknown.
        notes: sentences for the report, such as what was left out of the data.
    """

    name: str
    train: Iterable[Any]
    selection: Iterable[Any]
    validation: Iterable[Any]
    example: Tensor
    num_classes: int | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = classify
    evaluate: Callable[[Any, Iterable[Any]], float] = accuracy
    metric: str = "accuracy"
    classes: tuple[str, ...] = ()
    preprocess: Mapping[str, Sequence[float]] | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_loader(
        cls,
        train: Iterable[Any],
        evaluate: Callable[[Any], float],
        *,
        name: str = "custom",
        num_classes: int | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = classify,
        metric: str = "quality",
    ) -> Task:
        """Make a task of any loader and any measure of quality.

        Args:
            train: batches of (inputs (B, ...), targets); also calibrates.
            evaluate: (model) -> quality, higher is better. It serves the planner's choices and the
                report alike, which a note in the report says.
            name: shown in reports.
            num_classes: width K of the logits; ``None`` where outputs are no logits: models then
                learn the largest anchor's outputs instead of its classes.
            loss: (outputs, targets) -> scalar.
            metric: name of what ``evaluate`` returns.

        Raises:
            DataError: there is not one batch of two tensors.

        Example:
            >>> batches = [(torch.zeros(2, 3), torch.tensor([0, 1]))]
            >>> Task.from_loader(batches, lambda model: 0.5, num_classes=2).input_shape
            (3,)
        """
        first = next(iter(train), None)
        if not (isinstance(first, list | tuple) and len(first) == 2):
            raise DataError(
                "The loader must give batches of (inputs, targets); its first one is "
                f"{type(first).__name__}."
            )
        return cls(
            name=name,
            train=train,
            selection=train,
            validation=train,
            example=first[0][:1],
            num_classes=num_classes,
            loss=loss,
            evaluate=lambda model, _: float(evaluate(model)),
            metric=metric,
            notes=("One evaluate function chose and reports: its figures are optimistic.",),
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return tuple(self.example.shape[1:])

    def batch(self, size: int) -> Tensor:
        """Inputs (size, ...) taken from the training data, for calibration and initialisation;
        never augmented twice.
        """
        taken: list[Tensor] = []
        for inputs, _ in self.train:
            taken.append(inputs[: size - sum(map(len, taken))])
            if sum(map(len, taken)) >= size:
                break
        if not taken:
            raise DataError(
                f"The training data of {self.name!r} is empty; give at least one batch."
            )
        return torch.cat(taken)
