"""One loss for each sample, from a loss that takes the mean over a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["per_sample"]

_TOLERANCE = 1e-4


def per_sample(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a loss that gives out what each sample adds to the mean.

    The loss is mapped over batches of one sample, without a loop in Python. The first batch is
    computed both ways.

    Args:
        loss: (outputs (B, ...), targets (B, ...), ...) -> scalar, the mean over the samples.

    Returns:
        The same arguments -> (B,).

    Raises:
        TrainingError: when called, if the loss compares samples with one another, or does what
            ``torch.func.vmap`` cannot map.

    Example:
        >>> each = per_sample(torch.nn.functional.cross_entropy)
        >>> each(torch.tensor([[0.0, 0.0], [0.0, 50.0]]), torch.tensor([0, 1]))
        tensor([0.6931, 0.0000])
    """
    checked = False

    def alone(*parts: Tensor) -> Tensor:
        return loss(*(part[None] for part in parts))

    def each(*batch: Tensor) -> Tensor:
        nonlocal checked
        try:
            losses: Tensor = torch.func.vmap(alone, randomness="different")(*batch)  # (B,)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"The loss cannot be taken sample by sample ({error}); give one that returns (B,)."
            ) from error
        if not checked:
            _check(losses.detach(), loss(*(part.detach() for part in batch)))
            checked = True
        return losses

    return each


def _check(losses: Tensor, whole: Tensor) -> None:
    if not torch.allclose(losses.mean(), whole, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
        raise TrainingError(
            f"The loss of a batch is {float(whole):g} and the mean of the losses of its samples "
            f"{float(losses.mean()):g}, so that it compares samples; it cannot say which are "
            "learned."
        )
