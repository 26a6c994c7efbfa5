"""Search of AutoRF's cells: all operations on all edges, mixed by probabilities that cells share.

Source: as in :mod:`sartor.nn.autorf.cell`; first-order DARTS (arXiv 1806.09055). Of the derived
    cell every node keeps all its edges, strongest first, each with its best operation other than
    ``none``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import FamilyError, NoEffectError, TrainingError, nearest
from sartor.nn.architecture_step import ArchitectureAdam
from sartor.nn.autorf.cell import attention_slots
from sartor.nn.autorf.gates import ChannelGate
from sartor.nn.autorf.genotype import Genotype
from sartor.nn.autorf.ops import SPACES, is_pooling, make_operation

__all__ = ["DifferentiableSearch", "SearchCell", "derive", "insert_search_cells"]


class SearchCell(nn.Module):
    """A cell in which every edge is a mixture of all operations.

    Args:
        channels: C, a multiple of 16.
        space: of :data:`~sartor.nn.autorf.ops.SPACES`.
        steps: nodes, at least 1.
        alpha: logits (edges, operations) that cells share; ``None`` for its own.

    Raises:
        FamilyError: an argument is out of range.

    Example:
        >>> SearchCell(16).alpha.shape
        torch.Size([6, 9])
    """

    def __init__(
        self,
        channels: int,
        space: str = "fullpool",
        *,
        steps: int = 3,
        alpha: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        if space not in SPACES:
            raise FamilyError(f"There is no space {space!r}; {nearest(space, SPACES)}")
        if channels % 16 or channels < 16 or steps < 1:
            raise FamilyError(
                "A cell needs a multiple of 16 channels and at least 1 node, got "
                f"{channels} and {steps}."
            )
        self.space, self.steps, inner = space, steps, channels // 4
        edges, names = steps * (steps + 1) // 2, SPACES[space]
        fresh = nn.Parameter(1e-3 * torch.randn(edges, len(names)))
        self.alpha = fresh if alpha is None else alpha
        self.squeeze = nn.Conv2d(channels, inner, 1, bias=False)
        self.edges = nn.ModuleList(
            nn.ModuleList(_candidate(name, inner) for name in names) for _ in range(edges)
        )
        self.expand = nn.Conv2d(inner * steps, channels, 1, bias=False)
        self.gate = ChannelGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        states, weights = [self.squeeze(x)], self.alpha.softmax(1)  # (edges, operations)
        edge = 0
        for node in range(self.steps):
            total = torch.zeros_like(states[0])
            for source in range(node + 1):
                for index, operation in enumerate(self.edges[edge]):  # type: ignore[arg-type]
                    total = total + weights[edge, index] * operation(states[source])
                edge += 1
            states.append(total)
        outputs: Tensor = self.gate(self.expand(torch.cat(states[1:], dim=1)) + x)
        return outputs


def derive(alpha: Tensor, space: str = "fullpool") -> Genotype:
    """The cell that logits (edges, operations) stand for.

    Raises:
        FamilyError: there is no such space, or the shape is not that of whole nodes and the space.

    Example:
        >>> alpha = torch.zeros(3, 4)
        >>> alpha[2, 2] = 1.0
        >>> derive(alpha, "small").nodes
        ((('noise', 0),), (('max3', 1), ('noise', 0)))
    """
    if space not in SPACES:
        raise FamilyError(f"There is no space {space!r}; {nearest(space, SPACES)}")
    names, rows = SPACES[space], alpha.shape[0]
    steps = next((n for n in range(1, rows + 1) if n * (n + 1) // 2 == rows), 0)
    if not steps or alpha.shape[1] != len(names):
        raise FamilyError(
            f"Logits have 1, 3, 6, ... rows and {len(names)} columns in the space {space!r}, got "
            f"{tuple(alpha.shape)}."
        )
    scores = alpha.detach().softmax(1)
    scores[:, names.index("none")] = -1
    best, index = scores.max(1)
    nodes, edge = [], 0
    for node in range(steps):
        edges = range(edge, edge + node + 1)
        ordered = sorted(edges, key=lambda e: -float(best[e]))
        nodes.append(tuple((names[int(index[e])], e - edge) for e in ordered))
        edge += node + 1
    return Genotype(tuple(nodes))


def insert_search_cells(
    model: nn.Module, space: str = "fullpool", *, stages: Sequence[int] | None = None
) -> nn.Module:
    """Give a copy of a model of timm a searched cell in each residual block; all share one
    ``alpha``.

    Args:
        model: see :func:`~sartor.nn.autorf.cell.attention_slots`.
        space: of :data:`~sartor.nn.autorf.ops.SPACES`.
        stages: which stages, from 1; ``None`` for all.

    Raises:
        NoEffectError: there is no such block.
        FamilyError: a block has an attention already, its channels are no multiple of 16, or there
            is no such space.
    """
    made = copy.deepcopy(model)
    alpha: nn.Parameter | None = None
    for block, channels in attention_slots(made, stages):
        cell = SearchCell(channels, space, alpha=alpha)
        alpha, block.se = cell.alpha, cell.train(block.training)
    return made


class DifferentiableSearch:
    """The search beside a training loop: a step of the mixtures, then one of the weights.

    Args:
        model: with searched cells that share their logits.
        arch_lr: of Adam, above 0.
        weight_decay: of the logits, at least 0.
        loss: (outputs, targets) -> scalar.

    Raises:
        NoEffectError: the model has no searched cell.
        TrainingError: a number is out of range, or cells do not share their logits.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        arch_lr: float = 1e-4,
        weight_decay: float = 1e-3,
        loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        cells = [module for module in model.modules() if isinstance(module, SearchCell)]
        if not cells:
            raise NoEffectError("The model has no searched cell; use insert_search_cells.")
        if not arch_lr > 0 or weight_decay < 0 or len({id(cell.alpha) for cell in cells}) > 1:
            raise TrainingError(
                "The search takes arch_lr > 0, weight_decay >= 0 and cells that share their "
                f"logits, got {arch_lr}, {weight_decay} and {len(cells)} cells; make them with "
                "insert_search_cells."
            )
        self.model, self.loss = model, loss
        self.alpha, self.space = cells[0].alpha, cells[0].space
        self.adam = ArchitectureAdam([self.alpha], lr=arch_lr, weight_decay=weight_decay)

    def weights(self) -> list[nn.Parameter]:
        """Everything but the logits, for the optimiser of the weights."""
        return [p for p in self.model.parameters() if p is not self.alpha]

    def arch_step(self, inputs: Tensor, targets: Tensor) -> None:
        """Learn the logits from a validation batch that trains no weights."""
        self.adam.step(self.loss(self.model(inputs), targets), [self.alpha])

    def genotype(self) -> Genotype:
        """The cell that the logits stand for now; see :func:`derive`."""
        return derive(self.alpha, self.space)


def _candidate(name: str, channels: int) -> nn.Module:
    """An operation without gains; all poolings end in one more norm and so compete evenly."""
    operation = make_operation(name, channels, affine=False)
    if not is_pooling(name):
        return operation
    return nn.Sequential(operation, nn.BatchNorm2d(channels, affine=False))
