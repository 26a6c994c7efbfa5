"""What a training is told, and what it tells: its settings and its history."""

from __future__ import annotations

from dataclasses import dataclass, field

from sartor.core.errors import TrainingError

__all__ = ["History", "TrainSettings"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of a training.

    Attributes:
        epochs: at least 0; 0 leaves the model as it is.
        lr: the optimiser's highest rate, above 0.
        weight_decay: at least 0.
        warmup_epochs: of linear rise, at least 0; then the rate falls along half a cosine.
        precision: ``no``, ``bf16`` or ``fp16``, as accelerate names them.
        seed: of the order of the data, of dropout and of what ``on_step`` draws.
    """

    epochs: int = 10
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 0.0
    precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.lr <= 0 or self.weight_decay < 0 or self.warmup_epochs < 0:
            raise TrainingError(
                "Training takes epochs >= 0, lr > 0, weight_decay >= 0 and warmup_epochs >= 0, "
                f"got {self}."
            )
        if self.precision not in ("no", "bf16", "fp16"):
            raise TrainingError(f"The precision must be no, bf16 or fp16, got {self.precision!r}.")


@dataclass(kw_only=True)
class History:
    """What happened in each epoch, and why the training ended early, if it did.

    Attributes:
        losses: mean over the steps.
        seconds: wall time.
        steps: of the optimiser.
        samples: that went through the model, over all processes.
        stopped: ``deadline`` or empty.
        changes: what a recipe changed of the plain training, a clause each.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    stopped: str = ""
    changes: list[str] = field(default_factory=list)
