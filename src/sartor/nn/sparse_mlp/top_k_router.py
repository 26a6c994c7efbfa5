"""Routing of units to experts, and the losses that keep the experts in work.

Source: Riquelme et al., Scaling Vision with Sparse Mixture of Experts, NeurIPS 2021, arXiv
    2106.05974, sections 2 and A, as Sparse-MLP takes it over (see
    :mod:`sartor.nn.sparse_mlp.backbone`). Deviation: the threshold of the load loss is a constant
    to its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError

__all__ = ["Routing", "TopKRouter", "load_balance_loss", "squared_variation", "top_k_routing"]


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Where U units go, of E experts.

    Attributes:
        weights: of the chosen experts (U, k); softmax over all experts, before the choice, so they
            do not sum to 1.
        indices: of the chosen experts (U, k), the heaviest first.
        logits: without noise (U, E).
        threshold: k-th largest of the noisy logits (U,), without gradient.
        noise_std: deviation of the noise in training, above 0.
    """

    weights: Tensor
    indices: Tensor
    logits: Tensor
    threshold: Tensor
    noise_std: float


def top_k_routing(
    logits: Tensor, k: int, *, noise: Tensor | None = None, noise_std: float | None = None
) -> Routing:
    """Choose the k heaviest experts of each unit, after softmax over noisy logits.

    Args:
        logits: (U, E).
        k: from 1 to E.
        noise: (U, E), added before the softmax.
        noise_std: its deviation; ``None`` for 1 / E.

    Raises:
        DataError: k is not from 1 to E.

    Example:
        >>> routing = top_k_routing(torch.tensor([[0.0, 0.0, 9.0]]), 1)
        >>> routing.indices.tolist()
        [[2]]
    """
    experts = logits.shape[-1]
    if not 1 <= k <= experts:
        raise DataError(f"A unit goes to 1 to {experts} of {experts} experts, got {k}.")
    noisy = logits if noise is None else logits + noise
    weights, indices = noisy.softmax(dim=-1).topk(k, dim=-1)  # (U, k)
    threshold = noisy.detach().gather(-1, indices[:, -1:]).squeeze(-1)
    return Routing(
        weights=weights,
        indices=indices,
        logits=logits,
        threshold=threshold,
        noise_std=1 / experts if noise_std is None else noise_std,
    )


def load_balance_loss(routing: Routing) -> Tensor:
    """Mean of the importance and the load loss, both 0 where all experts have the same.

    Importance is the sum of an expert's softmax weights without noise; load is the expected number
    of units that choose it if its noise were drawn again. The loss of either is its squared
    variation over the experts.

    Returns:
        A scalar in float32 or float64, at least 0.
    """
    logits = routing.logits.to(torch.promote_types(routing.logits.dtype, torch.float32))
    importance = logits.softmax(dim=-1).sum(dim=0)  # (E,)
    gap = (logits - routing.threshold.to(logits.dtype).unsqueeze(-1)) / routing.noise_std
    load = torch.special.ndtr(gap).sum(dim=0)  # (E,)
    return (squared_variation(importance) + squared_variation(load)) / 2


def squared_variation(values: Tensor) -> Tensor:
    """Variance over all values in units of their squared mean.

    Example:
        >>> float(squared_variation(torch.tensor([2.0, 0.0])))
        1.0
    """
    return values.var(correction=0) / values.mean().square()


class TopKRouter(nn.Module):
    """Linear gate without bias over experts; noisy in training only.

    Args:
        dim: length of a unit.
        num_experts: E, at least 1.
        k: experts of a unit, from 1 to E.
        noise_std: deviation of the noise on the logits, above 0; ``None`` for 1 / E.

    Raises:
        FamilyError: a number is out of range.

    Example:
        >>> TopKRouter(8, 4)(torch.zeros(3, 8)).weights.shape
        torch.Size([3, 1])
    """

    def __init__(
        self, dim: int, num_experts: int, k: int = 1, noise_std: float | None = None
    ) -> None:
        super().__init__()
        if dim < 1 or not 1 <= k <= num_experts or (noise_std is not None and noise_std <= 0):
            raise FamilyError(
                "A router takes units of at least 1 number, 1 <= k <= num_experts and noise_std "
                f"above 0, got {dim}, {k}, {num_experts} and {noise_std}."
            )
        self.k = k
        self.noise_std = 1 / num_experts if noise_std is None else noise_std
        self.weight = nn.Parameter(torch.empty(num_experts, dim))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, units: Tensor) -> Routing:
        """Units (U, dim) -> where they go; computed in float32 at least."""
        kind = torch.promote_types(units.dtype, torch.float32)
        with torch.autocast(units.device.type, enabled=False):
            logits = units.to(kind) @ self.weight.to(kind).T  # (U, E)
            noise = self.noise_std * torch.randn_like(logits) if self.training else None
            return top_k_routing(logits, self.k, noise=noise, noise_std=self.noise_std)
