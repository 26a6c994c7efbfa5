"""Area under the receiver operating characteristic."""

from __future__ import annotations

import torch
from torch import Tensor

from sartor.core.errors import DataError

__all__ = ["roc_auc"]


def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """Probability that a random positive scores higher than a random negative; ties count half.

    Args:
        scores: (N,), any order-preserving score, without NaN.
        labels: (N,), 0 or 1, both present.

    Raises:
        DataError: the shapes differ, a score is NaN, or a class is absent.

    Example:
        >>> roc_auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        0.75
    """
    positive = labels == 1  # (N,)
    count = int(positive.sum())
    if scores.ndim != 1 or scores.shape != labels.shape or not 0 < count < len(labels):
        raise DataError(
            "The AUC takes scores (N,) and labels (N,) with positives and negatives, got shapes "
            f"{tuple(scores.shape)} and {tuple(labels.shape)} with {count} positives."
        )
    if bool(scores.isnan().any()):
        raise DataError("The scores hold NaN, which has no rank; look where it comes from.")
    _, place, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = sizes.cumsum(0).double() - (sizes.double() - 1) / 2  # (U,), from 1
    above = mean_rank[place][positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(labels) - count)))
