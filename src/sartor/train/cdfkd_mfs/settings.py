"""Settings of data-free distillation, with the published values as defaults.

Source: Hao, Luo, Wang, Hu, An, CDFKD-MFS, IEEE Transactions on Multimedia 2022, arXiv 2205.11845.
    Deviations: milestones are shares of the training instead of epochs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sartor.core.errors import TrainingError

__all__ = ["DataFreeSettings", "DataFreeWeights"]


@dataclass(frozen=True, kw_only=True)
class DataFreeWeights:
    """What each term counts.

    One teacher with ``ensemble=0`` is data-free adversarial distillation with a batch-norm prior;
    with ``statistics=0`` too, without it.

    Attributes:
        head: of the heads' distance to their teachers, in the student's loss.
        feature: of the distance of pooled features; needs equal widths. The paper: 0.2, and 0.05
            for mini-ImageNet.
        ensemble: of the distance of mean logits. The paper: 5, and 1 for mini-ImageNet.
        statistics: of the batch-norm prior, in the generator's loss.
        adversarial: of what the generator gains where heads and teachers disagree.
        first_norm: what a teacher's first batch norm counts in the prior.
    """

    head: float = 1.0
    feature: float = 0.2
    ensemble: float = 5.0
    statistics: float = 0.1
    adversarial: float = 1.0
    first_norm: float = 5.0

    def __post_init__(self) -> None:
        if not min(vars(self).values()) >= 0:
            raise TrainingError(f"The weights of data-free distillation must be >= 0, got {self}.")
        if not self.head + self.feature + self.ensemble > 0:
            raise TrainingError(
                "The student would learn nothing with head, feature and ensemble weights of 0; "
                "give one of them a positive weight."
            )
        if not self.statistics + self.adversarial > 0:
            raise TrainingError(
                "The generator would learn nothing with statistics and adversarial weights of 0; "
                "give one of them a positive weight."
            )


@dataclass(frozen=True, kw_only=True)
class DataFreeSettings:
    """Settings of data-free distillation; defaults are the paper's for CIFAR-100.

    Attributes:
        iterations: each several steps of the student and one of the generator; at least 1.
        batch_size: generated images a step, at least 2.
        student_steps: of the student before each step of the generator, at least 1.
        student_lr: of SGD with momentum, above 0.
        momentum: in [0, 1).
        weight_decay: of the student, at least 0.
        generator_lr: of Adam, above 0.
        milestones: increasing shares of the training, in (0, 1), at which both rates become a
            tenth.
        weights: of the terms.
        seed: of the noise that images are made of.
    """

    iterations: int = 15_000
    batch_size: int = 256
    student_steps: int = 5
    student_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    generator_lr: float = 1e-3
    milestones: tuple[float, ...] = (1 / 3, 2 / 3)
    weights: DataFreeWeights = field(default_factory=DataFreeWeights)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.iterations, self.student_steps) < 1 or self.batch_size < 2:
            raise TrainingError(
                "Data-free distillation takes iterations >= 1, student_steps >= 1 and batch_size "
                f">= 2 (a batch needs a variance), got {self.iterations}, {self.student_steps} and "
                f"{self.batch_size}."
            )
        if min(self.student_lr, self.generator_lr) <= 0:
            raise TrainingError(
                f"The rates must be above 0, got student_lr={self.student_lr} and "
                f"generator_lr={self.generator_lr}."
            )
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise TrainingError(
                "The momentum must lie in [0, 1) and the weight_decay be at least 0, got "
                f"{self.momentum} and {self.weight_decay}."
            )
        shares = self.milestones
        if list(shares) != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise TrainingError(
                f"The milestones must be increasing shares between 0 and 1, got {shares}."
            )

    def rate_factor(self, iteration: int) -> float:
        """A tenth for every milestone that ``iteration``, from 0, has reached."""
        passed = sum(iteration >= share * self.iterations - 1e-9 for share in self.milestones)
        return float(0.1**passed)
