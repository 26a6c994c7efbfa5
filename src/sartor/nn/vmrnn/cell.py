"""The cell of VMRNN: blocks of :class:`~sartor.nn.vmrnn.ss2d.SS2D` make one gate, which forgets,
takes in and gives out at once.

Source: see :mod:`sartor.nn.vmrnn.forecaster`. Deviation: only the first block of a cell has the
    linear layer that takes the hidden state in; the released modules carry one, unused, in every
    block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError
from sartor.core.packages import require
from sartor.nn.vmrnn.ss2d import SS2D

__all__ = ["State", "VMRNNCell", "VSSBlock", "shared_gate"]

#: hidden map and cell map, (B, H, W, D) each
State = tuple[Tensor, Tensor]


def shared_gate(outputs: Tensor, cell: Tensor) -> State:
    """Apply one gate F = sigmoid(O): C' = F (C + tanh O), H' = F tanh C'.

    Args:
        outputs: O of the blocks.
        cell: C, of the same shape.

    Returns:
        H' and C'.

    Example:
        >>> [float(part) for part in shared_gate(torch.zeros(()), torch.zeros(()))]
        [0.0, 0.0]
    """
    gate = torch.sigmoid(outputs)
    cell = gate * (cell + torch.tanh(outputs))
    return gate * torch.tanh(cell), cell


class VSSBlock(nn.Module):
    """Residual block x + SS2D(norm(x)); where it takes a hidden map too, that one goes through the
    same norm and both are mixed first.

    Args:
        dim: channels D.
        takes_hidden: whether the block takes a hidden map.
        d_state: of the :class:`~sartor.nn.vmrnn.ss2d.SS2D`.
        expand: of the SS2D.
        drop_path: rate of stochastic depth, in [0, 1).
    """

    def __init__(
        self,
        dim: int,
        *,
        takes_hidden: bool = False,
        d_state: int = 16,
        expand: float = 2.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mix = nn.Linear(2 * dim, dim) if takes_hidden else None
        self.ss2d = SS2D(dim, d_state=d_state, expand=expand)
        self.drop_path = require("timm.layers").DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Map (B, H, W, D) and, where the block takes one, hidden map -> (B, H, W, D)."""
        y = self.norm(x)
        if self.mix is not None and hidden is not None:
            y = self.mix(torch.cat((y, self.norm(hidden)), dim=-1))
        outputs: Tensor = x + self.drop_path(self.ss2d(y))
        return outputs


class VMRNNCell(nn.Module):
    """A recurrent cell over maps of any size.

    Args:
        dim: channels D.
        depth: number of blocks, at least 1.
        d_state: of each SS2D.
        expand: of each SS2D.
        drop_path: rate of stochastic depth of all blocks, or one for each.

    Raises:
        FamilyError: ``depth`` is below 1, or the rates are not one for each block.

    Example:
        >>> cell = VMRNNCell(8, depth=2, d_state=4)
        >>> h, (h, c) = cell(torch.zeros(1, 4, 4, 8))
        >>> h.shape, c.shape
        (torch.Size([1, 4, 4, 8]), torch.Size([1, 4, 4, 8]))
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        d_state: int = 16,
        expand: float = 2.0,
        drop_path: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        rates = [drop_path] * depth if isinstance(drop_path, (int, float)) else list(drop_path)
        if depth < 1 or len(rates) != depth:
            raise FamilyError(
                f"A VMRNN cell takes a depth of at least 1 and one drop_path for each block, got "
                f"{depth} and {len(rates)}."
            )
        self.blocks = nn.ModuleList(
            VSSBlock(dim, takes_hidden=i == 0, d_state=d_state, expand=expand, drop_path=rate)
            for i, rate in enumerate(rates)
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Take one step.

        Args:
            x: map (B, H, W, D).
            state: of the step before; zeros at the first.

        Returns:
            The hidden map (B, H, W, D), and the new state.

        Raises:
            DataError: the state belongs to maps of another shape.
        """
        hidden, cell = state if state is not None else (torch.zeros_like(x),) * 2
        if hidden.shape != x.shape or cell.shape != x.shape:
            raise DataError(
                f"The state of a VMRNN cell has the shapes {tuple(hidden.shape)} and "
                f"{tuple(cell.shape)} and its input {tuple(x.shape)}; begin anew, without state, "
                "when batch or size change."
            )
        first, *others = self.blocks
        outputs = first(x, hidden)
        for block in others:
            outputs = block(outputs)
        hidden, cell = shared_gate(outputs, cell)
        return hidden, (hidden, cell)
