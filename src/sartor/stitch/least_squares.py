"""The affine map that best takes one set of features to another.

Source: Pan, Cai, Zhuang, 2023, arXiv 2302.06586, equation 3, with a bias as in the official code.
    Deviation: anchors are in eval mode
and see clean images, where the official code leaves drop-path and augmentation on.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["least_squares_affine"]


def least_squares_affine(x: Tensor, y: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Minimise ||x W^T + b - y||^2 + ridge * ||W||^2; of several minimisers, take the one of least
    norm.

    Args:
        x: features (M, C_in), any leading dimensions are flattened.
        y: features (M, C_out).
        ridge: at least 0.

    Returns:
        Weight (C_out, C_in) and bias (C_out,), in the precision of ``x``; solved in float64 on the
        CPU.

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> weight, bias = least_squares_affine(x, 2 * x + 1)
        >>> bool(torch.allclose(bias, torch.ones(3), atol=1e-5))
        True
    """
    rows = x.flatten(0, -2).double().cpu()  # (M, C_in)
    wanted = y.flatten(0, -2).double().cpu()  # (M, C_out)
    if len(rows) <= rows.shape[1] and not ridge:
        warnings.warn(
            f"{len(rows)} features of width {rows.shape[1]} do not determine a map; give more "
            "inputs "
            "or a ridge above 0.",
            stacklevel=2,
        )
    rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)  # (M, C_in + 1)
    if ridge:
        width = rows.shape[1]
        penalty = (
            ridge**0.5 * torch.eye(width, dtype=rows.dtype)[:-1]
        )  # (C_in, C_in + 1), bias free
        rows = torch.cat([rows, penalty])
        wanted = torch.cat([wanted, wanted.new_zeros(width - 1, wanted.shape[1])])
    solution = torch.linalg.lstsq(rows, wanted, driver="gelsd").solution  # (C_in + 1, C_out)
    return solution[:-1].T.to(x), solution[-1].to(x)
