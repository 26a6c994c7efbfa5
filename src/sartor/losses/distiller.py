"""The interface of every distillation loss: what it sees, what it asks for, what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

__all__ = ["DistillationLoss", "Outputs"]


@dataclass(frozen=True)
class Outputs:
    """What one model said about one batch.

    Attributes:
        logits: (B, K), or what the model returns where there are no classes.
        features: module path -> the output of that module, as it left it; holds the taps that the
            loss asked for and nothing else.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


class DistillationLoss(nn.Module, ABC):
    """Student, teacher and targets in, the whole training loss out, labels included.

    It is a module so that what it needs to bridge shapes, such as projectors, trains with the
    student; :func:`sartor.distill` drops it afterwards. A subclass calls ``super().__init__()``.

    Attributes:
        student_taps: paths of the student's modules whose outputs the loss wants, as
            ``named_modules`` spells them; empty: the logits are enough.
        teacher_taps: likewise of the teacher; a loss without any can learn from cached logits.
    """

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()

    def prepare(self, student: Outputs, teacher: Outputs) -> tuple[str, ...]:
        """Build what bridges the shapes; called once, before the optimiser is made.

        Args:
            student: of one small batch, in eval mode, without gradients.
            teacher: of the same batch.

        Returns:
            A sentence for each bridge that was built, for the report; nothing by default.

        Raises:
            TrainingError: the two cannot be bridged.
        """
        return ()

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        """Scalar, differentiable in the student and in the loss's own parameters alone.

        Args:
            student: with gradients.
            teacher: of the same inputs, detached.
            targets: labels (B,), or mixed targets (B, K) that sum to 1 over the classes.
        """
