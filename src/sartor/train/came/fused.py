"""CAME's update of a matrix as compiled code: four passes over it where eager mode takes a dozen.

The code is compiled for each shape: with shapes left open, torch.compile would compile again for
every pattern of equal lengths, and stop at its limit. The options keep the short row and column
factors as tensors, where the compiler would otherwise compute their roots again for every entry of
the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sartor.train.came.update import CAMESettings, came_matrix_

__all__ = ["FusedMatrices"]

_OPTIONS = {"realize_reads_threshold": 4, "realize_opcount_threshold": 4}


class FusedMatrices:
    """:func:`~sartor.train.came.update.came_matrix_`, compiled when a shape is first seen; that
    takes seconds and a C++ compiler, or Triton on a GPU.
    """

    def __init__(self) -> None:
        self._compiled: dict[Any, Callable[..., None]] = {}
        self._given: tuple[float, float] | None = None
        self._numbers: list[Tensor] = []

    def __call__(
        self,
        param: Tensor,
        grad: Tensor,
        *state: Tensor,
        lr: float,
        decay: float,
        settings: CAMESettings,
    ) -> None:
        """Take one step, in place; arguments as those of ``came_matrix_``."""
        key = (param.shape, param.dtype, grad.dtype, grad.stride(), param.device, settings)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = _compile(settings)
        if (lr, decay) != self._given:
            # tensors, as code is compiled anew for each new number
            self._numbers = [torch.tensor(x, dtype=torch.float64) for x in (lr, decay)]
            self._given = (lr, decay)
        compiled(param, grad, *state, *self._numbers)


def _compile(settings: CAMESettings) -> Callable[..., None]:
    def run(*tensors: Tensor) -> None:
        *matrix, lr, decay = tensors
        came_matrix_(*matrix, lr=lr, decay=decay, settings=settings)

    # torch.compile counts its limit of recompilations by code object
    run.__code__ = run.__code__.replace()
    compiled: Callable[..., None] = torch.compile(
        run, dynamic=False, fullgraph=True, options=_OPTIONS
    )
    return compiled
