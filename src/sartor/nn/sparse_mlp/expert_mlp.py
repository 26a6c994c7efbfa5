"""Experts of one shape in stacked weights; each unit runs through those that it was sent to.

Source: see :mod:`sartor.nn.sparse_mlp.backbone`. Deviation: without a capacity no unit is ever
    dropped.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = ["ExpertMlp"]


class ExpertMlp(nn.Module):
    """E MLPs d -> h -> d with GELU.

    Units are sorted by expert, so each expert is two matrix products over its own. While a model
    is traced all experts run on all units instead, which gives the same numbers at E / k times the
    cost: a graph has no shapes that depend on the data.

    Args:
        num_experts: E, at least 1.
        dim: length d of a unit.
        hidden: h.
        capacity_factor: an expert takes at most this times the mean number of units, the first
            come; later ones add nothing. ``None`` drops none.

    Raises:
        FamilyError: a number is out of range.

    Example:
        >>> experts = ExpertMlp(2, 4, 8)
        >>> weights, indices = torch.ones(3, 1), torch.tensor([[0], [1], [0]])
        >>> experts(torch.zeros(3, 4), weights, indices).shape
        torch.Size([3, 4])
    """

    def __init__(
        self, num_experts: int, dim: int, hidden: int, *, capacity_factor: float | None = None
    ) -> None:
        super().__init__()
        if min(num_experts, dim, hidden) < 1 or (
            capacity_factor is not None and capacity_factor <= 0
        ):
            raise FamilyError(
                "Experts take num_experts, dim and hidden of at least 1 and a capacity_factor "
                f"above 0, got {num_experts}, {dim}, {hidden} and {capacity_factor}."
            )
        self.capacity_factor = capacity_factor
        self.fc1 = nn.Parameter(torch.empty(num_experts, hidden, dim))
        self.bias1 = nn.Parameter(torch.zeros(num_experts, hidden))
        self.fc2 = nn.Parameter(torch.empty(num_experts, dim, hidden))
        self.bias2 = nn.Parameter(torch.zeros(num_experts, dim))
        for weights in (*self.fc1, *self.fc2):
            nn.init.xavier_uniform_(weights.detach())

    def forward(self, units: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        """Send units through their experts and add up what comes out, weighted.

        Args:
            units: (U, d).
            weights: (U, k).
            indices: of the experts (U, k).

        Returns:
            (U, d).
        """
        if self.capacity_factor is not None:
            weights = weights * self._has_room(indices)
        weights = weights.to(units.dtype)
        if torch.compiler.is_compiling():
            return self._all(units, weights, indices)
        k, experts = indices.shape[1], len(self.fc1)
        order = indices.flatten().argsort(stable=True)  # (U k,), by expert
        sent = units[order // k]
        counts = indices.flatten().bincount(minlength=experts).tolist()
        outputs = [
            F.linear(F.gelu(F.linear(part, w1, b1)), w2, b2)
            for part, w1, b1, w2, b2 in zip(
                sent.split(counts), self.fc1, self.bias1, self.fc2, self.bias2, strict=True
            )
        ]
        came = torch.cat(outputs) * weights.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(units, dtype=came.dtype).index_add(0, order // k, came)

    def _all(self, units: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
        """All experts on all units."""
        hidden = torch.einsum("ud,ehd->euh", units, self.fc1) + self.bias1.unsqueeze(1)
        outputs = torch.einsum("euh,edh->eud", F.gelu(hidden), self.fc2) + self.bias2.unsqueeze(1)
        chosen = F.one_hot(indices, len(self.fc1)).to(weights.dtype)  # (U, k, E)
        return torch.einsum("eud,uke,uk->ud", outputs, chosen, weights)

    def _has_room(self, indices: Tensor) -> Tensor:
        """Whether a unit is among the first of its expert, up to the capacity (U, k)."""
        experts = len(self.fc1)
        room = math.ceil(float(self.capacity_factor or 1.0) * indices.numel() / experts)
        chosen = F.one_hot(indices.flatten(), experts)  # (U k, E)
        place = (chosen.cumsum(dim=0) * chosen).sum(dim=-1)  # from 1
        return (place <= room).view_as(indices)
