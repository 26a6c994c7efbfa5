"""Hints: intermediate features of the student, projected, regress those of the teacher.

Source: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv 1412.6550. Deviations:
one stage of training instead of two; several pairs of features; maps and tokens of any architecture
are brought to the teacher's grid by average pooling or bilinear interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.losses.distillation import kd_loss
from sartor.losses.distiller import DistillationLoss, Outputs
from sartor.losses.patch_tokens import grid_side

__all__ = ["HintKD", "feature_map"]


class HintKD(DistillationLoss):
    """Labels + logits + weight * the sum over pairs of mean squared differences of features.

    Between architectures of different kinds this often harms, as their features are not alike; it
    stands here as the baseline of :class:`~sartor.losses.OfaKD`.

    Args:
        student_taps: paths of modules that return maps (B, C, H, W) or tokens (B, P + N, D).
        teacher_taps: as many, paired in order.
        weight: of the sum over pairs, at least 0.
        temperature: of the logits.
        student_prefix: class, distillation and register tokens of the student.
        teacher_prefix: of the teacher.
        channels_last: maps come as (B, H, W, C), as Swin's do: of student and of teacher.
        label_loss: (logits, targets) -> scalar.

    Raises:
        TrainingError: the taps are no pairs or the weight is negative.
    """

    def __init__(
        self,
        student_taps: Sequence[str],
        teacher_taps: Sequence[str],
        *,
        weight: float = 1.0,
        temperature: float = 1.0,
        student_prefix: int = 0,
        teacher_prefix: int = 0,
        channels_last: tuple[bool, bool] = (False, False),
        label_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        super().__init__()
        self.student_taps, self.teacher_taps = tuple(student_taps), tuple(teacher_taps)
        if not self.student_taps or len(self.student_taps) != len(self.teacher_taps) or weight < 0:
            raise TrainingError(
                "Hints take a weight of at least 0 and at least one pair of taps, got "
                f"{weight}, {len(self.student_taps)} taps of the student and "
                f"{len(self.teacher_taps)} of the teacher."
            )
        self.weight, self.temperature, self.label_loss = weight, temperature, label_loss
        self.prefixes, self.channels_last = (student_prefix, teacher_prefix), channels_last
        self.projectors = nn.ModuleList()

    def prepare(self, student: Outputs, teacher: Outputs) -> tuple[str, ...]:
        """Build a 1 x 1 convolution for each pair, from the shapes of one batch."""
        maps = self._maps(student, teacher)
        self.projectors = nn.ModuleList(
            nn.Conv2d(mine.shape[1], wanted.shape[1], 1).to(mine.device) for mine, wanted in maps
        )
        return tuple(
            f"{tap} goes from {tuple(mine.shape[1:])} to {tuple(wanted.shape[1:])}"
            for tap, (mine, wanted) in zip(self.student_taps, maps, strict=True)
        )

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        """Scalar; see the class."""
        if len(self.projectors) != len(self.student_taps):
            raise TrainingError(
                "The projectors of the hints are built by prepare(student, teacher) on one batch; "
                "call it before the optimiser is made."
            )
        gaps = [
            F.mse_loss(project(_at_grid(mine, wanted)), wanted)
            for project, (mine, wanted) in zip(
                self.projectors, self._maps(student, teacher), strict=True
            )
        ]
        loss = self.label_loss(student.logits, targets)
        loss = loss + kd_loss(student.logits, teacher.logits, self.temperature)
        return loss + self.weight * torch.stack(gaps).sum()

    def _maps(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        return [
            (
                self._map(student.features[mine], 0),
                self._map(teacher.features[other].detach(), 1),
            )
            for mine, other in zip(self.student_taps, self.teacher_taps, strict=True)
        ]

    def _map(self, features: Tensor, side: int) -> Tensor:
        if features.ndim == 4 and self.channels_last[side]:
            return features.permute(0, 3, 1, 2)
        return feature_map(features, self.prefixes[side])


def feature_map(features: Tensor, prefix: int = 0) -> Tensor:
    """Features as maps.

    Args:
        features: maps (B, C, H, W), or tokens of a square grid (B, P + N, D).
        prefix: P.

    Returns:
        (B, C, H, W); maps as they are.

    Raises:
        TrainingError: the features are neither.

    Example:
        >>> feature_map(torch.zeros(2, 17, 8), prefix=1).shape
        torch.Size([2, 8, 4, 4])
    """
    if features.ndim == 4:
        return features
    if features.ndim == 3 and 0 <= prefix < features.shape[1]:
        patches = features[:, prefix:]
        side = grid_side(patches.shape[1])
        return patches.transpose(1, 2).unflatten(2, (side, side))
    raise TrainingError(
        f"Hints take maps (batch, channels, height, width) or tokens (batch, tokens, width), got "
        f"{tuple(features.shape)} and a prefix of {prefix}; tap modules that return either."
    )


def _at_grid(mine: Tensor, wanted: Tensor) -> Tensor:
    size = wanted.shape[2:]
    if mine.shape[2] >= size[0] and mine.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(mine, size)
    return F.interpolate(mine, size=size, mode="bilinear")
