"""Gates of a single-path search: sampled while training, cut at one half otherwise.

Source: He, Cai, Liu, Pan, Zhang, Tao, Zhuang, "Pruning Self-attentions into Convolutional Layers in
Single Path", TPAMI 2024, arXiv 2111.11802, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bernoulli_ste", "hard_gates", "nested_gates", "sample_gates"]


def bernoulli_ste(probs: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw 0 or 1 with these probabilities; the gradient is that of a relaxed draw.

    Args:
        probs: of a 1, in (0, 1); numbers at the ends are moved inwards by rounding's width.
        generator: ``None`` is torch's.

    Returns:
        0 and 1, of the shape of ``probs``.

    Example:
        >>> bernoulli_ste(torch.tensor([0.0, 1.0])).tolist()
        [0.0, 1.0]
    """
    edge = torch.finfo(probs.dtype).eps
    u = torch.rand(probs.shape, generator=generator, dtype=probs.dtype, device=probs.device)
    u, p = u.clamp(edge, 1 - edge), probs.clamp(edge, 1 - edge)
    logits = u.log() - (-u).log1p() + p.log() - (-p).log1p()
    soft = torch.sigmoid(logits)
    return (logits > 0).to(probs.dtype) + (soft - soft.detach())


def hard_gates(thresholds: Tensor) -> Tensor:
    """1 where a gate's probability sigmoid(threshold) is above one half, else 0; with a gradient.

    The gradient is that of sigmoid(g - 1/2), as the paper's complexity loss takes it.
    """
    g = torch.sigmoid(thresholds)
    soft = torch.sigmoid(g - 0.5)
    return (g > 0.5).to(g.dtype) + (soft - soft.detach())


def sample_gates(thresholds: Tensor, *, training: bool) -> Tensor:
    """Gates 0 or 1: sampled while training, cut at one half otherwise."""
    g = torch.sigmoid(thresholds)
    return bernoulli_ste(g) if training else (g > 0.5).to(g.dtype)


def nested_gates(gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which of three nested operations runs: each needs the gates before it.

    Only the most complex one that is on learns: gates below it lose their gradient.

    Args:
        gates: (3,), each 0 or 1.

    Returns:
        Indicators of the first, second and third operation.

    Example:
        >>> [float(i) for i in nested_gates(torch.tensor([1.0, 0.0, 1.0]))]
        [1.0, 0.0, 0.0]
    """
    one, two, three = gates.cumprod(dim=0)
    if three > 0:
        return one.detach(), two.detach(), three
    if two > 0:
        return one.detach(), two, three
    return one, two, three
