"""Learn from a few labelled images which head of a multi-head student to trust for which input.

Source: Hao, Luo, Wang, Hu, An, CDFKD-MFS, IEEE Transactions on Multimedia 2022, arXiv 2205.11845.
    Deviations: the authors' code has no such training; cross entropy with the student frozen is the
    paper's, Adam on all images at once is this project's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import DataError, TrainingError
from sartor.core.modes import eval_mode
from sartor.nn.cdfkd_mfs.head_attention import AttentiveStudent

__all__ = ["fit_head_attention_"]


def fit_head_attention_(
    model: AttentiveStudent,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    steps: int = 100,
    lr: float = 1e-2,
    weight_decay: float = 1e-4,
) -> list[float]:
    """Train the attention in place; the student, its statistics included, stays as it is.

    The student runs once over the images, so that a step costs next to nothing.

    Args:
        model: left in eval mode.
        batches: images (B, C, H, W) and labels (B,), few.
        steps: of Adam, at least 1.
        lr: above 0.
        weight_decay: at least 0.

    Returns:
        The loss before each step.

    Raises:
        DataError: there is not one image.
        TrainingError: a setting is out of range, or the loss is not finite.
    """
    if steps < 1 or lr <= 0 or weight_decay < 0:
        raise TrainingError(
            "The attention takes steps >= 1, lr > 0 and weight_decay >= 0, got "
            f"{steps}, {lr} and {weight_decay}."
        )
    logits, features, labels = _outputs(model, batches)
    optimizer = torch.optim.Adam(model.attention.parameters(), lr=lr, weight_decay=weight_decay)
    losses: list[float] = []
    for _ in range(steps):
        weights = model.attention(features).unsqueeze(-1)  # (n, N, 1)
        loss = F.cross_entropy((weights * logits).sum(dim=0), labels)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"The loss of the attention became {losses[-1]}; lower lr (now {lr:g})."
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return losses


@torch.no_grad()
def _outputs(
    model: AttentiveStudent, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, N, K), features (n, N, d) and labels (N,) of all images."""
    student = model.student
    device = next(student.parameters()).device
    outputs, targets = [], []
    with eval_mode(student):
        for images, labels in batches:
            outputs.append(student.forward_heads(images.to(device)))
            targets.append(labels.to(device))
    if not outputs:
        raise DataError("There is no image to learn the attention from; give at least one batch.")
    logits = torch.cat([one for one, _ in outputs], dim=1)
    return logits, torch.cat([one for _, one in outputs], dim=1), torch.cat(targets)
