"""What a teacher answers: its outputs without gradients, at its own input size, refused if they are
not finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sartor.core.errors import TrainingError
from sartor.data.memory import fit_images

__all__ = ["ask", "check_finite"]


@torch.no_grad()
def ask(model: nn.Module, inputs: Tensor, resize: Sequence[int] | None = None) -> Tensor:
    """A teacher's outputs about inputs (B, ...), which are resized first if that is asked for."""
    outputs: Tensor = model(inputs if resize is None else fit_images(inputs, tuple(resize)))
    return outputs


def check_finite(logits: Tensor) -> None:
    """Refuse a teacher that says nothing.

    Raises:
        TrainingError: an output is not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise TrainingError(
            "The teacher gives outputs that are not finite; repair it, or look for bad inputs."
        )
