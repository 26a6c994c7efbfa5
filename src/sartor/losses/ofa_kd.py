"""OFA-KD: any teacher for any student, by taking the student's features to the space of logits.

Source: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
Distillation, NeurIPS 2023, arXiv 2310.19444. Form "code" is the released one, form "paper" that of
the text. Deviations: logarithms of probabilities are computed as such, where the released code
takes the logarithm of a probability that half precision may have rounded to 0; branches are built
from the shapes of the features, for any student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.losses.distiller import DistillationLoss, Outputs
from sartor.losses.exit_branch import exit_branch
from sartor.losses.patch_tokens import patch_tokens

__all__ = ["FORMS", "OfaKD", "ofa_loss"]

FORMS = ("code", "paper")


def ofa_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 1.0,
    temperature: float = 1.0,
    form: str = "code",
) -> Tensor:
    """Soft cross entropy against the teacher, with the target class enhanced.

    With m the one-hot target and p, q the softmax of teacher and student at the temperature:
    sum over classes of -((p + m)^gamma - m) log q, mean over the batch. At gamma 1 this is the
    cross entropy with soft targets. There is no factor T^2.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K); no gradient flows into it.
        targets: labels (B,), or mixed targets (B, K), of which the largest entry counts: with two
            images mixed half and half, that is either.
        gamma: at least 1; larger trusts the labels more. The paper's best lie in 1.1 to 1.4.
        temperature: T, above 0.
        form: ``code``, or ``paper``, where gamma touches the target class alone and the cross
            entropy of the labels is part of the loss.

    Returns:
        Scalar, at least 0; its minimum is not 0 but, at gamma 1, the teacher's entropy.

    Raises:
        TrainingError: shapes differ or a setting is out of range.

    Example:
        >>> z = torch.tensor([[1, 2, 0.5], [0, -1, 3]])
        >>> t = torch.tensor([[2.0, 1, 0], [-1, 0.5, 2]])
        >>> round(ofa_loss(z, t, torch.tensor([0, 2]), gamma=1.5).item(), 6)
        1.102561
    """
    _check(student_logits, teacher_logits, targets, gamma, temperature, form)
    labels = targets.argmax(dim=1) if targets.ndim == 2 else targets  # (B,)
    student = F.log_softmax(student_logits / temperature, dim=1)  # (B, K)
    teacher = F.softmax(teacher_logits.detach() / temperature, dim=1)  # (B, K)
    mask = F.one_hot(labels, teacher.shape[1]).bool()  # (B, K)
    enhanced = torch.expm1(gamma * torch.log1p(teacher))  # (1 + p)^gamma - 1
    if form == "code":
        weight = torch.where(mask, enhanced, teacher**gamma)
    else:
        weight = torch.where(mask, enhanced + 1, teacher)
    return -(weight * student).sum(dim=1).mean()


class OfaKD(DistillationLoss):
    """Labels, the teacher's logits on the student's, and the same on an exit of each stage.

    Only the teacher's logits are read, so that they may come from a cache. The branches train with
    the student and are dropped with this module; the student itself is never changed.

    Args:
        stages: paths of the student's modules after each stage, in order; maps (B, C, H, W) or
            tokens (B, P + N, D). Empty: no branches.
        gamma: one for all, or one for each stage and a last one for the student's own logits.
        weights: of the labels, of the student's logits and of the sum over the branches.
        temperature: as in :func:`ofa_loss`.
        form: as in :func:`ofa_loss`; ``paper`` holds the labels in every term, the paper's
            branches included.
        width: features that each branch classifies; default: those of the last stage. The paper
            takes the larger of what the classifiers of student and teacher see.
        prefix: class, distillation and register tokens before the patches.
        final_grid: side of the token grid that branches end with: 7 for images of 224, 2 for small
            ones.
        channels_last: maps come as (B, H, W, C), as Swin's do, and get the branches of tokens.
        label_loss: (logits, targets) -> scalar.

    Raises:
        TrainingError: gammas are neither one nor one more than stages, or a setting is out of
            range.

    Example:
        >>> loss = OfaKD(("layer1", "layer2", "layer3", "layer4"), gamma=1.2)
        >>> loss.student_taps
        ('layer1', 'layer2', 'layer3', 'layer4')
    """

    def __init__(
        self,
        stages: Sequence[str],
        *,
        gamma: float | Sequence[float] = 1.0,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        temperature: float = 1.0,
        form: str = "code",
        width: int | None = None,
        prefix: int = 0,
        final_grid: int = 7,
        channels_last: bool = False,
        label_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        super().__init__()
        self.student_taps = tuple(stages)
        count = len(self.student_taps) + 1
        gammas = (float(gamma),) * count if isinstance(gamma, int | float) else tuple(gamma)
        if len(gammas) != count:
            raise TrainingError(
                f"{count - 1} stages take one gamma or {count}, the last of them for the student's "
                f"own logits, got {len(gammas)}."
            )
        if len(weights) != 3 or min(weights) < 0:
            raise TrainingError(
                "OFA-KD takes 3 weights of at least 0, of the labels, the logits and the branches, "
                f"got {tuple(weights)}."
            )
        for one in gammas:
            _check_settings(one, temperature, form)
        self.gammas, self.weights = gammas, weights
        self.temperature, self.form, self.label_loss = temperature, form, label_loss
        self.width, self.prefix, self.final_grid = width, prefix, final_grid
        self.channels_last = channels_last
        self.branches = nn.ModuleList()

    def prepare(self, student: Outputs, teacher: Outputs) -> tuple[str, ...]:
        """Build a branch for each stage, from the shapes of one batch."""
        features = self._features(student)
        last = features[-1] if features else None
        fallback = 0 if last is None else last.shape[1 if last.ndim == 4 else -1]
        self.branches = nn.ModuleList(
            exit_branch(
                feature.shape,
                student.logits.shape[1],
                stage=number,
                num_stages=len(features),
                width=self.width or fallback,
                prefix=self.prefix,
                final_grid=self.final_grid,
            ).to(feature.device)
            for number, feature in enumerate(features, start=1)
        )
        return tuple(
            f"{tap} {tuple(feature.shape[1:])} goes to logits through "
            f"{sum(p.numel() for p in branch.parameters())} parameters"
            for tap, feature, branch in zip(self.student_taps, features, self.branches, strict=True)
        )

    def terms(self, student: Outputs, teacher: Outputs, targets: Tensor) -> dict[str, Tensor]:
        """The weighted scalars that sum to the loss: ``labels``, ``logits`` and each tap's path."""
        if len(self.branches) != len(self.student_taps):
            raise TrainingError(
                f"The {len(self.student_taps)} branches of OFA-KD are built by prepare(student, "
                "teacher) on one batch; call it before the optimiser is made."
            )
        of_labels, of_logits, of_branches = self.weights
        features = zip(self.branches, self._features(student), strict=True)
        exits = [branch(feature) for branch, feature in features]
        weighed = zip(
            ("logits", *self.student_taps),
            (student.logits, *exits),
            (of_logits, *[of_branches] * len(exits)),
            (self.gammas[-1], *self.gammas[:-1]),
            strict=True,
        )
        terms = {"labels": of_labels * self.label_loss(student.logits, targets)}
        for name, logits, weight, gamma in weighed:
            terms[name] = weight * ofa_loss(
                logits,
                teacher.logits,
                targets,
                gamma=gamma,
                temperature=self.temperature,
                form=self.form,
            )
        return terms

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        """Scalar: the sum of :meth:`terms`."""
        return torch.stack(list(self.terms(student, teacher, targets).values())).sum()

    def _features(self, student: Outputs) -> list[Tensor]:
        """As the branches take them."""
        found = [student.features[tap] for tap in self.student_taps]
        if not self.channels_last:
            return found
        return [patch_tokens(f, channels_last=True) if f.ndim == 4 else f for f in found]


def _check(
    student: Tensor, teacher: Tensor, targets: Tensor, gamma: float, temperature: float, form: str
) -> None:
    _check_settings(gamma, temperature, form)
    if student.ndim != 2 or student.shape != teacher.shape:
        raise TrainingError(
            f"The student's logits {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)} must be (batch, classes) of one shape; distil between models "
            "of the same classes in the same order."
        )
    if targets.shape not in (student.shape[:1], student.shape):
        raise TrainingError(
            f"Targets are labels (batch,) or mixed targets (batch, classes) of logits "
            f"{tuple(student.shape)}, got {tuple(targets.shape)}."
        )


def _check_settings(gamma: float, temperature: float, form: str) -> None:
    if not gamma >= 1:
        raise TrainingError(
            f"gamma must be at least 1, got {gamma}; below 1 the slope at probability 0 is "
            "infinite."
        )
    if not temperature > 0:
        raise TrainingError(f"The temperature must be above 0, got {temperature}.")
    if form not in FORMS:
        raise TrainingError(f"The form is 'code' or 'paper', got {form!r}.")
