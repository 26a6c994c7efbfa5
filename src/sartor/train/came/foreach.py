"""CAME's update of many tensors at once: :mod:`sartor.train.came.update`, operation by operation,
over lists, so that Python is entered once for each operation and not once for each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sartor.train.came.update import CAMESettings

__all__ = ["came_matrices_", "came_vectors_"]

Tensors = list[Tensor]


def came_matrices_(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sq_rows: Tensors,
    exp_avg_sq_cols: Tensors,
    exp_avg_res_rows: Tensors,
    exp_avg_res_cols: Tensors,
    *,
    lrs: Sequence[float],
    decay: float = 1.0,
    settings: CAMESettings,
) -> None:
    """Take one step with each matrix or stack of matrices, in place.

    Args:
        params: weights (..., n, m) each.
        grads: their gradients, in the state's dtype.
        exp_avgs: see :func:`~sartor.train.came.update.came_matrix_`, as for all that follow.
        exp_avg_sq_rows: (..., n) each.
        exp_avg_sq_cols: (..., m) each.
        exp_avg_res_rows: (..., n) each.
        exp_avg_res_cols: (..., m) each.
        lrs: length of the step for each.
        decay: factor of all weights before the step, 1 - lr * weight_decay.
        settings: see :class:`CAMESettings`.
    """
    (beta1, beta2, beta3), (eps1, eps2) = settings.betas, settings.eps
    squares = torch._foreach_mul(grads, grads)  # (..., n, m)
    _average_(exp_avg_sq_rows, exp_avg_sq_cols, squares, 1.0, eps1, beta2)
    rows, cols = _inverse_roots(exp_avg_sq_rows, exp_avg_sq_cols)
    scaled = torch._foreach_mul(grads, cols)  # (..., n, m)
    norms = [torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in scaled]  # (..., n, 1)
    torch._foreach_mul_(norms, rows)
    _clip_(rows, norms, [x.numel() for x in scaled], settings.clip_threshold)
    differences = torch._foreach_addcmul(exp_avgs, scaled, rows, value=-1)  # M - U
    torch._foreach_add_(exp_avgs, differences, alpha=beta1 - 1)
    torch._foreach_mul_(differences, differences)
    _average_(exp_avg_res_rows, exp_avg_res_cols, differences, beta1**2, eps2, beta3)
    rows, cols = _inverse_roots(exp_avg_res_rows, exp_avg_res_cols)
    torch._foreach_mul_(rows, lrs)
    if decay != 1:
        torch._foreach_mul_(params, decay)
    torch._foreach_addcmul_(params, torch._foreach_mul(exp_avgs, cols), rows, value=-1)


def came_vectors_(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    *,
    lrs: Sequence[float],
    decay: float = 1.0,
    settings: CAMESettings,
) -> None:
    """Take one step with each vector or number, in place.

    Args:
        params: weights, of any shape.
        grads: their gradients, in the state's dtype.
        exp_avgs: see :func:`~sartor.train.came.update.came_vector_`.
        exp_avg_sqs: likewise.
        lrs: length of the step for each.
        decay: factor of all weights before the step.
        settings: see :class:`CAMESettings`.
    """
    beta1, beta2, _ = settings.betas
    squares = torch._foreach_mul(grads, grads)
    torch._foreach_add_(squares, settings.eps[0])
    torch._foreach_lerp_(exp_avg_sqs, squares, 1 - beta2)
    updates = torch._foreach_rsqrt(exp_avg_sqs)
    torch._foreach_mul_(updates, grads)
    _clip_(updates, updates, [x.numel() for x in updates], settings.clip_threshold)
    torch._foreach_lerp_(exp_avgs, updates, 1 - beta1)
    if decay != 1:
        torch._foreach_mul_(params, decay)
    torch._foreach_sub_(params, torch._foreach_mul(exp_avgs, lrs))


def _average_(
    rows: Tensors, cols: Tensors, values: Tensors, scale: float, eps: float, beta: float
) -> None:
    """Move the averages towards the means over columns and rows of scale * values + eps."""
    for averages, axis in ((rows, -1), (cols, -2)):
        sums = [value.sum(axis) for value in values]
        torch._foreach_mul_(sums, [scale / value.shape[axis] for value in values])
        torch._foreach_add_(sums, eps)
        torch._foreach_lerp_(averages, sums, 1 - beta)


def _inverse_roots(rows: Tensors, cols: Tensors) -> tuple[Tensors, Tensors]:
    """Factors (..., n, 1) and (..., 1, m) of 1 / sqrt(row col / mean(row))."""
    by_row = torch._foreach_div(rows, [row.mean(-1, keepdim=True) for row in rows])
    torch._foreach_rsqrt_(by_row)
    by_col = torch._foreach_rsqrt(cols)
    return [row.unsqueeze(-1) for row in by_row], [col.unsqueeze(-2) for col in by_col]


def _clip_(factors: Tensors, parts: Tensors, sizes: Sequence[int], threshold: float) -> None:
    """Divide so that updates of these sizes, whose norms are those of ``parts``, have a root mean
    square of at most ``threshold``.
    """
    norms = list(torch._foreach_norm(parts))
    torch._foreach_div_(norms, [threshold * math.sqrt(size) for size in sizes])
    torch._foreach_clamp_min_(norms, 1.0)
    torch._foreach_div_(factors, norms)
