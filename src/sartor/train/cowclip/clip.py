"""CowClip: no row of an embedding table gets a longer gradient than its own norm times the number
of times that its id occurs in the batch.

Source: Zheng, Xu, Zhang, Ding, Fu, Shi, Liu, You, CowClip: Reducing CTR Prediction Model Training
    Time from 12 hours to 10 minutes on 1 GPU, AAAI 2023, arXiv 2204.06240.

Deviations: the paper writes its bound on the norm of a row, the official code multiplies it by the
ratio and the square root of the row's length; the code made the published numbers, so
:func:`norm_bound` follows it. Rows that are absent from the batch hold the penalty alone, which the
rule cannot shorten as long as ``2 * l2 <= r``; they are not visited. Sparse gradients get the
factor of the counts, which the official branch for them leaves out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sartor.core.errors import DataError, RecipeError

__all__ = ["check_clip", "clip_rows_", "cowclip_", "norm_bound", "row_factors"]


def norm_bound(dim: int, *, r: float = 1.0, zeta: float = 1e-5) -> float:
    """Least norm that a row counts with, for tables of any width.

    Args:
        dim: length of a row, at least 1.
        r: ratio of gradient to weight, above 0.
        zeta: bound of one entry, at least 0; the published runs take 1e-5 on Criteo, and 1e-3 or
            1e-4 on Avazu.

    Raises:
        RecipeError: an argument is out of range.

    Example:
        >>> print(f"{norm_bound(10):.6e}")
        3.162278e-05
    """
    if dim < 1:
        raise RecipeError(f"The rows of an embedding have at least 1 entry, got {dim}.")
    check_clip(r, zeta)
    return r * math.sqrt(dim) * zeta


def row_factors(weight: Tensor, grad: Tensor, counts: Tensor, *, r: float, bound: float) -> Tensor:
    """What each row of a gradient is multiplied by.

    The threshold of a row is ``r * counts * max(norm of the weight, bound)``; a longer gradient is
    shortened to it, a shorter one is left as it is. Norms are taken in float32 at least.

    Args:
        weight: rows (N, D).
        grad: their gradients (N, D).
        counts: how often each id occurs in the batch, (N,), at least 1.
        r: above 0.
        bound: least norm that a row counts with, at least 0.

    Returns:
        Factors (N,) in [0, 1].

    Example:
        >>> row_factors(torch.ones(1, 4), torch.full((1, 4), 3.0), torch.ones(1), r=1.0, bound=0.0)
        tensor([0.3333])
    """
    dtype = torch.promote_types(grad.dtype, torch.float32)
    norm = torch.linalg.vector_norm(grad, dim=1, dtype=dtype)  # (N,)
    weight_norm = torch.linalg.vector_norm(weight, dim=1, dtype=dtype)  # (N,)
    threshold = weight_norm.clamp_min(bound) * counts * r  # (N,)
    return torch.where(norm > threshold, threshold / norm, 1.0)  # a row of zeros stays one


def cowclip_(
    weight: Tensor,
    grad: Tensor,
    ids: Tensor,
    counts: Tensor | None = None,
    *,
    r: float = 1.0,
    bound: float = 1e-5,
) -> Tensor:
    """Clip a table's gradient in place, in the rows of ``ids`` only.

    Args:
        weight: the table (V, D).
        grad: its gradient (V, D), dense or coalesced sparse; the penalty on the weights belongs in
            it before it is clipped.
        ids: rows that occur in the batch, (N,) integers in 0..V-1: all of the batch with their
            repetitions, or each once together with ``counts``.
        counts: how often each of ``ids`` occurs in the batch of all processes, (N,), at least 1.
        r: ratio of gradient to weight, above 0.
        bound: least norm that a row counts with, at least 0; :func:`norm_bound` gives the published
            one.

    Returns:
        ``grad``.

    Raises:
        RecipeError: ``r`` or ``bound`` is out of range.
        DataError: shapes, ids or counts do not fit.

    Example:
        >>> weight, grad = torch.tensor([[0.03, 0.04]]), torch.tensor([[0.3, 0.4]])
        >>> cowclip_(weight, grad, torch.tensor([0, 0]))
        tensor([[0.0600, 0.0800]])
    """
    check_clip(r, bound)
    _check_table(weight, grad)
    _check_ids(ids, counts, rows=len(weight))
    if counts is None:
        ids, counts = torch.unique(ids.reshape(-1), return_counts=True)
    else:
        ids, order = ids.sort()
        counts = counts[order]
    clip_rows_(weight, grad, ids, counts, r=r, bound=bound)
    return grad


@torch.no_grad()
def clip_rows_(
    weight: Tensor, grad: Tensor, ids: Tensor, counts: Tensor, *, r: float, bound: float
) -> Tensor:
    """:func:`cowclip_` without its checks, for arguments that are known to be good.

    Args:
        weight: (V, D).
        grad: (V, D), dense or coalesced sparse; changed in place.
        ids: (N,), rising, each once.
        counts: (N,).
        r: above 0.
        bound: at least 0.

    Returns:
        The factors of the rows that were looked at, (N,) or, of a sparse gradient, one for each row
        that it stores.
    """
    if not len(ids):
        return weight.new_ones(0)
    if not grad.is_sparse:
        rows = grad.index_select(0, ids)  # (N, D)
        factors = row_factors(weight.index_select(0, ids), rows, counts, r=r, bound=bound)
        grad.index_copy_(0, ids, (rows * factors[:, None]).to(grad.dtype))
        return factors
    stored, rows = grad.indices()[0], grad.values()  # (M,), (M, D)
    place = torch.searchsorted(ids, stored).clamp_max(len(ids) - 1)  # (M,)
    factors = row_factors(weight.index_select(0, stored), rows, counts[place], r=r, bound=bound)
    factors = torch.where(ids[place] == stored, factors, 1.0)
    rows.copy_(rows * factors[:, None])
    return factors


def check_clip(r: float, bound: float) -> None:
    """Refuse a ratio that is not above 0 and a bound below 0.

    Raises:
        RecipeError: one of them is so, or not finite.
    """
    if not (r > 0 and bound >= 0 and math.isfinite(r) and math.isfinite(bound)):
        raise RecipeError(
            f"CowClip takes r above 0 and a bound of at least 0, got {r:g} and {bound:g}."
        )


def _check_table(weight: Tensor, grad: Tensor) -> None:
    if weight.ndim != 2 or weight.shape != grad.shape:
        raise DataError(
            "CowClip takes a table and a gradient of one shape (V, D), got "
            f"{tuple(weight.shape)} and {tuple(grad.shape)}."
        )
    if grad.is_sparse and grad.sparse_dim() != 1:
        raise DataError(
            "The sparse gradient does not hold whole rows, as that of an embedding does; give "
            "grad.to_dense()."
        )
    if grad.is_sparse and not grad.is_coalesced():
        raise DataError(
            "The sparse gradient is not coalesced, so that a row is spread over several entries; "
            "give grad.coalesce()."
        )


def _check_ids(ids: Tensor, counts: Tensor | None, *, rows: int) -> None:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise DataError(f"Ids must be integers, got {ids.dtype}.")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
        raise DataError(
            f"The ids run from {int(ids.min())} to {int(ids.max())}, and the table has rows "
            f"0..{rows - 1}; give ids of this table."
        )
    if counts is None:
        return
    if ids.ndim != 1 or counts.shape != ids.shape:
        raise DataError(
            "Counts must be one for each id, (N,) both, got "
            f"{tuple(counts.shape)} for ids {tuple(ids.shape)}."
        )
    if counts.numel() and int(counts.min()) < 1:
        raise DataError(f"Counts are at least 1, got {int(counts.min())}; leave absent ids out.")
    if len(torch.unique(ids)) < len(ids):
        raise DataError("An id with a count must occur once in ids; leave the counts out or sum.")
