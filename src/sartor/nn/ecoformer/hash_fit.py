"""How hash functions are fitted: bit by bit, towards the nearest and farthest pairs of tokens.

Source: Liu, Pan, He, Cai, Zhuang, "EcoFormer: Energy-Saving Attention with Linear Complexity",
NeurIPS 2022, arXiv 2209.09004, section 3.3, after Liu et al., "Supervised Hashing with Kernels",
CVPR 2012. Deviations: the better one of old and new function is kept for each head alone; pairs
without a target are left out, where the official code draws their affinity to 0 (``masked=False``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["fit_projections", "pair_targets"]

MOMENTUM = 0.9


def pair_targets(z: Tensor, topk: int) -> Tensor:
    """+1 for the nearest tokens of each token, itself included, -1 for the farthest, else 0.

    Args:
        z: tokens of norm 1 (..., N, d).
        topk: how many of each.

    Returns:
        (..., N, N), a row for each token.

    Example:
        >>> pair_targets(torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]]), 1).tolist()
        [[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]]
    """
    alike = z @ z.transpose(-2, -1)
    targets = torch.zeros_like(alike)
    targets.scatter_(-1, alike.topk(topk, dim=-1).indices, 1.0)
    return targets.scatter_(-1, alike.topk(topk, dim=-1, largest=False).indices, -1.0)


@torch.no_grad()
def fit_projections(
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    *,
    steps: int,
    lr: float,
    masked: bool = True,
) -> tuple[Tensor, Tensor]:
    """Learn projections a_1 .. a_b so that the codes' products follow the targets.

    For each bit, SGD with Nesterov momentum lowers -y^T R y / (N b), meant over images and heads,
    y = tanh(x / 2) with x = features a standing for the sign; R starts as b times the targets and
    loses y y^T of each bit that is done, at the pairs that have a target.

    Args:
        features: centred kernels (B, H, N, m).
        targets: (B, H, N, N).
        weight: where the projections start (H, b, m); is left as it is.
        steps: a bit.
        lr: learning rate.
        masked: ``False`` takes y y^T from all pairs, as the official code does.

    Returns:
        Projections (H, b, m), and the loss of signs before and after, of each bit and head
        (b, 2, H).

    Raises:
        TrainingError: a projection is no number any more.
    """
    images, heads, tokens, _ = features.shape
    bits = weight.shape[1]
    fitted = weight.clone()
    residual = bits * (targets + targets.transpose(-2, -1)) / 2  # y^T R y sees this part alone
    seen = targets.abs() if masked else torch.ones_like(targets)
    seen = (seen + seen.transpose(-2, -1)) / 2
    scale = 1 / (tokens * bits * images * heads)
    losses = []
    for bit in range(bits):
        start = fitted[:, bit]  # (H, m)
        a, momentum = start.clone(), torch.zeros_like(start)
        for _ in range(steps):
            y = torch.tanh(_project(features, a) / 2)  # (B, H, N)
            slope = _times(residual, y) * (1 - y.square())  # of y^T R y by x
            gradient = -scale * torch.einsum("bhn,bhnm->hm", slope, features)
            momentum = MOMENTUM * momentum + gradient
            a = a - lr * (gradient + MOMENTUM * momentum)
        if not a.isfinite().all():
            raise TrainingError(
                f"Hash function {bit} ran away to infinity at a learning rate of {lr}; lower it."
            )
        old, new = (_signs(_project(features, one)) for one in (start, a))
        before, after = (_hard_loss(residual, y, bits) for y in (old, new))  # (H,) each
        better = (after < before).unsqueeze(-1)  # (H, 1)
        fitted[:, bit] = torch.where(better, a, start)
        y = torch.where(better, new, old)
        losses.append(torch.stack((before, torch.minimum(before, after))))
        residual = residual - seen * y.unsqueeze(-1) * y.unsqueeze(-2)
    return fitted, torch.stack(losses)


def _project(features: Tensor, a: Tensor) -> Tensor:
    return (features @ a.unsqueeze(-1)).squeeze(-1)  # (B, H, N, m), (H, m) -> (B, H, N)


def _times(matrix: Tensor, y: Tensor) -> Tensor:
    return (matrix @ y.unsqueeze(-1)).squeeze(-1)


def _signs(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def _hard_loss(residual: Tensor, y: Tensor, bits: int) -> Tensor:
    """-y^T R y / (N b), meant over the images: (H,)."""
    return -(y * _times(residual, y)).sum(dim=-1).mean(dim=0) / (y.shape[-1] * bits)
