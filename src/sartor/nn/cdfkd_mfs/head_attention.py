"""Weights for the heads of a student, sample by sample, learnt from a few labelled images.

Source: Hao, Luo, Wang, Hu, An, CDFKD-MFS, IEEE Transactions on Multimedia 2022, arXiv 2205.11845.
    Deviations: the module is not in the authors' code; a scaled dot product of one learnt query and
    a key of each head is this project's reading. Features are standardised first, as those of
    different heads differ in scale. The query is zero at the start, so that an untrained module is
    the mean of the heads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.nn.cdfkd_mfs.multi_head import MultiHeadStudent

__all__ = ["AttentiveStudent", "HeadAttention", "attention_weights"]


def attention_weights(features: Tensor, keys: Tensor, query: Tensor) -> Tensor:
    """Softmax over heads of <query, key of the head> / sqrt(width).

    Args:
        features: of each head (n, B, d).
        keys: one projection for each head (n, d, k).
        query: (k,).

    Returns:
        Weights (n, B) that sum to 1 over the heads.

    Example:
        >>> ones = torch.ones(2, 1, 3)
        >>> attention_weights(ones, torch.ones(2, 3, 4), torch.zeros(4))
        tensor([[0.5000],
                [0.5000]])
    """
    scores = features @ keys @ query / math.sqrt(len(query))  # (n, B)
    return scores.softmax(dim=0)


class HeadAttention(nn.Module):
    """The learnt query and keys of :func:`attention_weights`.

    Args:
        num_heads: n.
        num_features: d.
        width: k, of query and keys.

    Raises:
        FamilyError: a number is below 1.
    """

    def __init__(self, num_heads: int, num_features: int, *, width: int = 16) -> None:
        super().__init__()
        if min(num_heads, num_features, width) < 1:
            raise FamilyError(
                "The heads, features and width of an attention must be at least 1, got "
                f"{num_heads}, {num_features} and {width}."
            )
        self.keys = nn.Parameter(torch.empty(num_heads, num_features, width))
        self.query = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.keys, std=num_features**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Features (n, B, d) -> weights (n, B)."""
        standard = F.layer_norm(features, features.shape[-1:])  # (n, B, d)
        return attention_weights(standard, self.keys, self.query)


class AttentiveStudent(nn.Module):
    """A multi-head student whose heads are weighed for each input instead of averaged.

    Args:
        student: gives logits and features of its heads.
        width: of the attention.
    """

    def __init__(self, student: MultiHeadStudent, *, width: int = 16) -> None:
        super().__init__()
        self.student = student
        self.attention = HeadAttention(student.num_heads, student.num_features, width=width)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> weighed logits (B, K)."""
        logits, features = self.student.forward_heads(images)  # (n, B, K), (n, B, d)
        weights = self.attention(features)  # (n, B)
        weighed: Tensor = (weights.unsqueeze(-1) * logits).sum(dim=0)
        return weighed
