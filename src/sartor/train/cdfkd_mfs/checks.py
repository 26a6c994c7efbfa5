"""Whether teachers, student and generator fit together, told before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.core.modes import eval_mode
from sartor.losses.batch_norm_statistics import tracking_norms
from sartor.nn.cdfkd_mfs.multi_head import MultiHeadStudent
from sartor.nn.classifier_input import logits_and_features
from sartor.train.cdfkd_mfs.settings import DataFreeWeights

__all__ = ["check_data_free"]


@torch.no_grad()
def check_data_free(
    student: MultiHeadStudent,
    teachers: Sequence[nn.Module],
    generator: nn.Module,
    weights: DataFreeWeights,
    *,
    classes: Sequence[Sequence[str]] | None = None,
) -> None:
    """Run all of them once on two generated images, in eval mode; nothing of them changes.

    Raises:
        TrainingError: says what does not fit, and what to do.
    """
    if len(teachers) != student.num_heads:
        raise TrainingError(
            f"There are {len(teachers)} teachers and {student.num_heads} heads; make the student "
            "with one head for each teacher."
        )
    if not isinstance(getattr(generator, "latent_dim", None), int):
        raise TrainingError(
            f"The generator {type(generator).__name__} has no latent_dim; give it the length of "
            "its noise vectors."
        )
    _check_classes(classes, len(teachers))
    noise = torch.randn(
        2, generator.latent_dim, generator=torch.Generator().manual_seed(0)
    )  # (2, z)
    with eval_mode(student, generator, *teachers):
        images = generator(noise.to(next(student.parameters()).device))
        seen = student.forward_heads(images)  # (n, 2, K), (n, 2, d)
        for number, teacher in enumerate(teachers):
            _check_teacher(number, teacher, images, seen, weights)


def _check_teacher(
    number: int,
    teacher: nn.Module,
    images: Tensor,
    seen: tuple[Tensor, Tensor],
    weights: DataFreeWeights,
) -> None:
    logits, features = seen
    shape = tuple(images.shape[1:])
    try:
        theirs = teacher(images)
    except Exception as error:  # a model may raise anything on a wrong shape
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"Teacher {number} does not take the generator's images of shape {shape} ({reason}); "
            "give a generator of the size and channels that the teachers were trained on."
        ) from error
    if not isinstance(theirs, Tensor):
        raise TrainingError(
            f"Teacher {number} returns a {type(theirs).__name__}; wrap it in a module that returns "
            "its logits."
        )
    if theirs.shape != logits.shape[1:]:
        raise TrainingError(
            f"Teacher {number} gives outputs of shape {tuple(theirs.shape[1:])} and a head of the "
            f"student {tuple(logits.shape[2:])}; all must have the same classes in the same order."
        )
    if not theirs.isfinite().all():
        raise TrainingError(
            f"Teacher {number} gives outputs that are not finite; look at its weights."
        )
    if weights.statistics and not tracking_norms(teacher):
        raise TrainingError(
            f"Teacher {number} has no batch norm that keeps statistics (track_running_stats), so "
            "there is no prior for the generator; set the statistics weight to 0 or leave it out."
        )
    if weights.feature:
        width = logits_and_features(teacher, images)[1].shape[1]
        if width != features.shape[2]:
            raise TrainingError(
                f"Teacher {number} has features of width {width} and the student of width "
                f"{features.shape[2]}; take models of one width or set the feature weight to 0."
            )


def _check_classes(classes: Sequence[Sequence[str]] | None, count: int) -> None:
    if classes is None:
        return
    if len(classes) != count:
        raise TrainingError(
            f"There are names of the classes of {len(classes)} teachers and {count} teachers; give "
            "one list for each."
        )
    for number, names in enumerate(classes):
        if list(names) != list(classes[0]):
            raise TrainingError(
                f"Teacher {number} does not have the classes of teacher 0 in the same order; "
                "reorder its last layer."
            )
