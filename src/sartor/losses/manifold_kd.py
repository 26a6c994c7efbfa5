"""Manifold distillation: the student's patches relate to each other as the teacher's do.

Source: Hao et al., Learning Efficient Vision Transformers via Fine-Grained Manifold Distillation,
NeurIPS 2022, arXiv 2107.01378; normalised as in the released code, which the published weights
belong to. Deviations: tokens before the patches are left out on both sides by number (the released
slice keeps class tokens where both models have one); a student with a distillation head of its own
is trained through the logits that it returns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import TrainingError
from sartor.losses.distillation import kd_loss
from sartor.losses.distiller import DistillationLoss, Outputs
from sartor.losses.patch_tokens import merge_patches, patch_tokens

__all__ = ["ManifoldKD", "ManifoldTerms", "full_manifold_loss", "manifold_loss", "pair_layers"]


class ManifoldTerms(NamedTuple):
    """Three parts of a relation matrix: within images, across images, and of random patches."""

    intra: Tensor
    inter: Tensor
    random: Tensor


def manifold_loss(
    student_tokens: Tensor,
    teacher_tokens: Tensor,
    *,
    num_random: int = 192,
    generator: torch.Generator | None = None,
) -> ManifoldTerms:
    """Mean squared differences of cosines between patches, without the full B N x B N matrix.

    Matrix entries: B N^2 within images, N B^2 across images at one place, ``num_random``^2 of
    patches drawn without replacement, the same on both sides. Computed in float32 at least. The
    middle part couples the batch: its value depends on the batch size and, with several processes,
    belongs to the part of each.

    Args:
        student_tokens: of patches, (B, N, D).
        teacher_tokens: (B, N, E), in the same order; no gradient flows into it.
        num_random: patches drawn, at least 1; with B N or more, all of them.
        generator: of the draw, on the CPU; ``None``: torch's own.

    Returns:
        Three scalars in [0, 4]; all 0 where the cosines agree, whatever the widths.

    Raises:
        TrainingError: batch or number of patches differ, or ``num_random`` is below 1.

    Warns:
        UserWarning: a batch of 1 has no relations across images.

    Example:
        >>> tokens = torch.randn(4, 9, 8, generator=torch.Generator().manual_seed(0))
        >>> turned = torch.cat([2 * tokens.flip(2), 0 * tokens], dim=2)
        >>> max(term.item() for term in manifold_loss(tokens, turned)) < 1e-12
        True
    """
    _check_tokens(student_tokens, teacher_tokens)
    if num_random < 1:
        raise TrainingError(f"At least 1 patch must be drawn, got num_random={num_random}.")
    batch, count = student_tokens.shape[:2]
    if batch == 1:
        warnings.warn(
            "A batch of 1 has no relations across images; that term of the manifold loss is 0.",
            stacklevel=2,
        )
    with torch.autocast(student_tokens.device.type, enabled=False):
        student, teacher = _unit(student_tokens), _unit(teacher_tokens.detach())  # (B, N, D)
        drawn = torch.randperm(batch * count, generator=generator)[:num_random]
        drawn = drawn.to(student.device)  # (K,)
        return ManifoldTerms(
            intra=_gap(student, teacher),
            inter=_gap(student.transpose(0, 1), teacher.transpose(0, 1)),
            random=_gap(student.flatten(0, 1)[drawn], teacher.flatten(0, 1)[drawn]),
        )


def full_manifold_loss(student_tokens: Tensor, teacher_tokens: Tensor) -> Tensor:
    """Mean squared difference of the full relation matrices, which :func:`manifold_loss` avoids:
    (B N)^2 entries.

    Args:
        student_tokens: (B, N, D).
        teacher_tokens: (B, N, E); no gradient flows into it.

    Raises:
        TrainingError: batch or number of patches differ.
    """
    _check_tokens(student_tokens, teacher_tokens)
    with torch.autocast(student_tokens.device.type, enabled=False):
        student, teacher = _unit(student_tokens), _unit(teacher_tokens.detach())
        return _gap(student.flatten(0, 1), teacher.flatten(0, 1))


def pair_layers(student_depth: int, teacher_depth: int, n: int = 4) -> tuple[tuple[int, int], ...]:
    """Pair the first ``n`` and the last ``n`` blocks of two transformers.

    Returns:
        (student's block, teacher's block), 2 n pairs, from 0.

    Raises:
        TrainingError: a model has fewer than 2 n blocks, or ``n`` is below 1.

    Example:
        >>> pair_layers(4, 6, n=2)
        ((0, 0), (1, 1), (2, 4), (3, 5))
    """
    least = min(student_depth, teacher_depth)
    if not 1 <= n <= least // 2:
        raise TrainingError(
            f"The first and last {n} blocks need models of at least {2 * max(n, 1)} blocks, got "
            f"{student_depth} and {teacher_depth}; take n in 1..{max(least // 2, 1)}."
        )
    first = [(i, i) for i in range(n)]
    last = [(student_depth - i, teacher_depth - i) for i in range(n, 0, -1)]
    return (*first, *last)


class ManifoldKD(DistillationLoss):
    """(1 - alpha) labels + alpha logits + beta (intra, inter and random terms, weighed).

    The three terms are means over the pairs of taps. Nothing is learned: widths may differ, but
    both sides of a pair need the same grid of patches. The student should run without drop-path.

    Args:
        student_taps: paths of modules that return tokens (B, P + N, D) or maps (B, D, H, W).
        teacher_taps: as many, paired in order; :func:`pair_layers` gives the paper's numbers.
        weights: of the intra, inter and random terms; those published for DeiT-Tiny.
        alpha: weight of the teacher's logits, in [0, 1]; 1, as published, leaves the labels out,
            which caps a student of a weak teacher.
        beta: of the three terms together, at least 0.
        temperature: of :func:`~sartor.losses.kd_loss`.
        num_random: as in :func:`manifold_loss`.
        student_prefix: class, distillation and register tokens of the student.
        teacher_prefix: of the teacher.
        max_tokens: merge larger grids with :func:`~sartor.losses.merge_patches` until so many
            remain; ``None`` refuses grids that differ.
        channels_last: maps come as (B, H, W, D), as Swin's do: of student and of teacher.
        generator: of the random patches, on the CPU; ``None``: torch's own.
        label_loss: (logits, targets) -> scalar.

    Raises:
        TrainingError: a setting is out of range, or the taps are no pairs.

    Example:
        >>> pairs = pair_layers(12, 24)
        >>> loss = ManifoldKD(
        ...     [f"blocks.{s}" for s, _ in pairs], [f"blocks.{t}" for _, t in pairs], alpha=0.9
        ... )
        >>> loss.teacher_taps[-1]
        'blocks.23'
    """

    def __init__(
        self,
        student_taps: Sequence[str],
        teacher_taps: Sequence[str],
        *,
        weights: tuple[float, float, float] = (4.0, 0.1, 0.2),
        alpha: float = 1.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        num_random: int = 192,
        student_prefix: int = 0,
        teacher_prefix: int = 0,
        max_tokens: int | None = None,
        channels_last: tuple[bool, bool] = (False, False),
        generator: torch.Generator | None = None,
        label_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        super().__init__()
        self.student_taps, self.teacher_taps = tuple(student_taps), tuple(teacher_taps)
        if not self.student_taps or len(self.student_taps) != len(self.teacher_taps):
            raise TrainingError(
                "Taps of student and teacher are paired, and at least one pair is needed, got "
                f"{len(self.student_taps)} and {len(self.teacher_taps)}."
            )
        if len(weights) != 3 or min(*weights, beta) < 0 or not 0 <= alpha <= 1:
            raise TrainingError(
                "Manifold distillation takes 3 weights and a beta of at least 0 and an alpha in "
                f"[0, 1], got {tuple(weights)}, {beta} and {alpha}."
            )
        self.weights, self.alpha, self.beta = weights, alpha, beta
        self.temperature, self.num_random, self.generator = temperature, num_random, generator
        self.prefixes = (student_prefix, teacher_prefix)
        self.max_tokens, self.channels_last, self.label_loss = max_tokens, channels_last, label_loss

    def relations(self, student: Outputs, teacher: Outputs) -> ManifoldTerms:
        """The three terms, each the mean over the pairs of taps, unweighed.

        Raises:
            TrainingError: the grids of a pair differ.
        """
        pairs = [
            manifold_loss(
                self._tokens(student.features[mine], 0),
                self._tokens(teacher.features[other], 1),
                num_random=self.num_random,
                generator=self.generator,
            )
            for mine, other in zip(self.student_taps, self.teacher_taps, strict=True)
        ]
        return ManifoldTerms(*(torch.stack(terms).mean() for terms in zip(*pairs, strict=True)))

    def prepare(self, student: Outputs, teacher: Outputs) -> tuple[str, ...]:
        """Check every pair of taps on one batch; there is nothing to build."""
        self.relations(student, teacher)
        return ()

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        """Scalar; see the class."""
        terms = self.relations(student, teacher)
        relations = sum(w * term for w, term in zip(self.weights, terms, strict=True))
        loss = self.alpha * kd_loss(student.logits, teacher.logits, self.temperature)
        if self.alpha < 1:
            loss = loss + (1 - self.alpha) * self.label_loss(student.logits, targets)
        return loss + self.beta * relations

    def _tokens(self, features: Tensor, side: int) -> Tensor:
        last = self.channels_last[side]
        tokens = patch_tokens(features, prefix=self.prefixes[side], channels_last=last)
        return tokens if self.max_tokens is None else merge_patches(tokens, self.max_tokens)


def _unit(tokens: Tensor) -> Tensor:
    """Tokens of length 1, in float32 at least; zero tokens stay zero."""
    wide = torch.promote_types(tokens.dtype, torch.float32)
    return F.normalize(tokens.to(wide), dim=-1, eps=1e-8)


def _gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the cosines: (..., M, D) and (..., M, E) -> scalar."""
    return F.mse_loss(student @ student.mT, teacher @ teacher.mT)


def _check_tokens(student: Tensor, teacher: Tensor) -> None:
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise TrainingError(
            f"Tokens of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must be "
            "(batch, patches, width) with the same batch and patches; leave prefix tokens out, or "
            "merge the larger grid with max_tokens."
        )
