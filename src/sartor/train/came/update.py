"""CAME's update of one tensor, as functions of tensors.

Source: Yang Luo, Xiaozhe Ren, Zangwei Zheng, Zhuo Jiang, Xin Jiang, Yang You, "CAME:
Confidence-guided Adaptive Memory Efficient Optimization", ACL 2023, arXiv 2307.02047. Where paper
and released code differ the code is followed: means of rows and columns instead of sums, which give
the same product, and no correction of the averages for their start at zero. Deviations: the norm
of the weights that the code computes and never reads is left out; see also
:func:`factored_shape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["CAMESettings", "came_matrix_", "came_vector_", "factored_shape"]


@dataclass(frozen=True)
class CAMESettings:
    """What the update of every tensor of a parameter group shares.

    Attributes:
        betas: decay of the momentum, of the squared gradients and of the instability, in [0, 1).
        eps: added to the squared gradients and to the instability, above 0.
        clip_threshold: largest root mean square of an update before momentum, above 0.
    """

    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999)
    eps: tuple[float, float] = (1e-30, 1e-16)
    clip_threshold: float = 1.0


def factored_shape(shape: Sequence[int], *, factor_conv: bool = True) -> tuple[int, ...]:
    """The shape (..., n, m) whose rows and columns stand for a tensor, or () for one that is kept
    whole.

    Kernels of 2-D and 3-D convolutions are matrices (outputs, everything else), with about half of
    AdamW's state. The released code factors the last two axes of any tensor; for a 3 x 3 kernel
    that takes more than AdamW. Tensors of three axes, which may be stacks of matrices, keep the
    code's way, as do kernels with a single output.

    Args:
        shape: of the parameter.
        factor_conv: False factors kernels as the released code does.

    Example:
        >>> factored_shape((8, 4, 3, 3)), factored_shape((8, 4, 3, 3), factor_conv=False)
        ((8, 36), (8, 4, 3, 3))
        >>> factored_shape((5, 8, 4)), factored_shape((8,))
        ((5, 8, 4), ())
    """
    if len(shape) < 2:
        return ()
    if factor_conv and len(shape) > 3 and shape[0] > 1:
        return (shape[0], math.prod(shape[1:]))
    return tuple(shape)


def came_matrix_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq_row: Tensor,
    exp_avg_sq_col: Tensor,
    exp_avg_res_row: Tensor,
    exp_avg_res_col: Tensor,
    *,
    lr: float | Tensor,
    decay: float | Tensor = 1.0,
    settings: CAMESettings,
) -> None:
    """Take one step with a matrix or a stack of matrices, and update its state, in place.

    Args:
        param: weights (..., n, m).
        grad: their gradient (..., n, m), in the state's dtype.
        exp_avg: momentum of the update (..., n, m).
        exp_avg_sq_row: squared gradients, averaged over columns (..., n).
        exp_avg_sq_col: the same, averaged over rows (..., m).
        exp_avg_res_row: instability, averaged over columns (..., n).
        exp_avg_res_col: the same, averaged over rows (..., m).
        lr: length of the step.
        decay: factor of the weights before the step, 1 - lr * weight_decay.
        settings: see :class:`CAMESettings`.

    Example:
        >>> weights, momentum = torch.zeros(2, 3), torch.zeros(2, 3)
        >>> rows, columns = torch.zeros(2, 2), torch.zeros(2, 3)
        >>> came_matrix_(weights, torch.ones(2, 3), momentum, rows[0], columns[0], rows[1],
        ...              columns[1], lr=1e-3, settings=CAMESettings())
        >>> round(float(weights[0, 0]), 5)
        -0.01111
    """
    (beta1, beta2, beta3), (eps1, eps2) = settings.betas, settings.eps
    squares = grad * grad  # (..., n, m)
    exp_avg_sq_row.lerp_(squares.mean(-1) + eps1, 1 - beta2)
    exp_avg_sq_col.lerp_(squares.mean(-2) + eps1, 1 - beta2)
    row, col = _inverse_root(exp_avg_sq_row, exp_avg_sq_col)  # (..., n, 1), (..., 1, m)
    scaled = grad * col  # the update U is clip(row * scaled)
    norms = (scaled * scaled).sum(-1, keepdim=True).sqrt() * row  # (..., n, 1)
    row = row / _excess(norms, grad.numel(), settings.clip_threshold)
    difference = exp_avg - scaled * row  # M - U (..., n, m)
    exp_avg.add_(difference, alpha=beta1 - 1)
    squares = difference * difference  # (U - M)^2 once M has moved is beta1^2 times this
    exp_avg_res_row.lerp_(squares.mean(-1) * beta1**2 + eps2, 1 - beta3)
    exp_avg_res_col.lerp_(squares.mean(-2) * beta1**2 + eps2, 1 - beta3)
    row, col = _inverse_root(exp_avg_res_row, exp_avg_res_col)
    param.copy_(param * decay - exp_avg * (row * lr) * col)


def came_vector_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float | Tensor,
    decay: float | Tensor = 1.0,
    settings: CAMESettings,
) -> None:
    """Take one step with a vector or a number, which has no confidence term, in place.

    Args:
        param: weights, of any shape.
        grad: their gradient, in the state's dtype; all tensors have one shape.
        exp_avg: momentum of the update.
        exp_avg_sq: squared gradients.
        lr: length of the step.
        decay: factor of the weights before the step, 1 - lr * weight_decay.
        settings: see :class:`CAMESettings`.
    """
    beta1, beta2, _ = settings.betas
    exp_avg_sq.lerp_(grad * grad + settings.eps[0], 1 - beta2)
    update = grad * exp_avg_sq.rsqrt()
    update = update / _excess(update, grad.numel(), settings.clip_threshold)
    exp_avg.lerp_(update, 1 - beta1)
    param.copy_(param * decay - exp_avg * lr)


def _inverse_root(row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (..., n, 1) and (..., 1, m) of 1 / sqrt(row col / mean(row))."""
    by_row = (row / row.mean(-1, keepdim=True)).rsqrt()
    return by_row.unsqueeze(-1), col.rsqrt().unsqueeze(-2)


def _excess(parts: Tensor, count: int, threshold: float) -> Tensor:
    """How often the threshold fits into the root mean square of ``count`` values that have the norm
    of ``parts``; at least 1.
    """
    return ((parts * parts).sum() / count).sqrt().div(threshold).clamp(min=1.0)
