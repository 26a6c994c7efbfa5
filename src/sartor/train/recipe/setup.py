"""From a recipe to what the loop runs: every switch changes one part of a training, and is undone
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.train.job import OptimizerFactory
from sartor.train.settings import TrainSettings

__all__ = ["Setup"]


@dataclass(kw_only=True)
class Setup:
    """A training about to begin; switches change it.

    Attributes:
        model: changed in place; ``undo`` changes it back.
        batches: what an epoch goes through.
        loss: (model, *batch) -> scalar or (B,).
        settings: rates and epochs.
        optimizer: makes it; ``None`` for AdamW.
        before: called with the number of each step.
        after_backward: called with the same number when the gradients are complete.
        around: entered around each forward pass.
        undo: closed at the end.
        parts: what has a state of its own, by name; it goes into checkpoints.
        changes: what was really changed, a clause each.
    """

    model: nn.Module
    batches: Iterable[Any]
    loss: Callable[..., Tensor]
    settings: TrainSettings
    optimizer: OptimizerFactory | None = None
    before: list[Callable[[int], object]] = field(default_factory=list)
    after_backward: list[Callable[[int], None]] = field(default_factory=list)
    around: list[Callable[[], AbstractContextManager[Any]]] = field(default_factory=list)
    undo: ExitStack = field(default_factory=ExitStack)
    parts: dict[str, Any] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)

    @property
    def total_steps(self) -> int:
        """Of the training, if every epoch were as long as the first.

        Raises:
            TrainingError: the batches have no length.
        """
        try:
            return self.settings.epochs * len(self.batches)  # type: ignore[arg-type]
        except TypeError as error:
            raise TrainingError(
                "A schedule over the training needs batches with a length, got "
                f"{type(self.batches).__name__}; give a DataLoader or a list."
            ) from error

    def on_step(self, step: int) -> None:
        """Tell everyone who listens that a step begins."""
        for call in self.before:
            call(step)

    def on_backward(self, step: int) -> None:
        """Tell everyone who listens that the gradients are complete."""
        for call in self.after_backward:
            call(step)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a forward pass."""
        with ExitStack() as entered:
            for context in self.around:
                entered.enter_context(context())
            yield
