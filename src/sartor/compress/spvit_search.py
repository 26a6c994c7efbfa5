"""The search of SPViT: a vision transformer with gates, what it costs, and what the gates choose.

Source: He, Cai, Liu, Pan, Zhang, Tao, Zhuang, "Pruning Self-attentions into Convolutional Layers in
Single Path", TPAMI 2024, arXiv 2111.11802; deviations stand in :mod:`sartor.compress.spvit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.compress.spvit_cost import (
    branch_macs,
    check_transformer,
    cost_bounds,
    prefix_tokens,
    transformer_blocks,
)
from sartor.core.errors import FamilyError, RecipeError
from sartor.nn.spvit.gates import hard_gates
from sartor.nn.spvit.unified_attention import KINDS, UnifiedAttention, UnifiedMlp
from sartor.nn.token_grid import patch_grid

__all__ = ["Architecture", "SinglePathSearch"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a search chose for each block: the kind of attention, and the hidden units that stay."""

    kinds: tuple[str, ...]
    units: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        legal = all(kind in KINDS for kind in self.kinds) and len(self.kinds) == len(self.units)
        if not legal or not all(
            type(unit) is int and unit >= 0 and units.count(unit) == 1
            for units in self.units
            for unit in units
        ):
            raise RecipeError(
                f"An architecture names one of {', '.join(KINDS)} and different hidden units for "
                f"each block, got {self.kinds} and {len(self.units)} lists of units; search again."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {"kinds": list(self.kinds), "units": [list(units) for units in self.units]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Architecture:
        """Inverse of :meth:`to_dict`.

        Raises:
            RecipeError: entries are missing or of a wrong kind.
        """
        try:
            units = tuple(tuple(one) for one in value["units"])
            return cls(kinds=tuple(value["kinds"]), units=units)
        except (KeyError, TypeError) as error:
            raise RecipeError(
                "An architecture has the entries kinds and units, both lists; search again."
            ) from error


class SinglePathSearch(nn.Module):
    """A vision transformer that is trained while its gates learn which parts it needs.

    Args:
        model: a timm ``VisionTransformer`` or DeiT, or a route through several; is changed in
            place, with its weights.
        target_macs: multiply-adds to reach.
        lam: weight of the squared error of the cost in 1e9 multiply-adds, as in the paper.
        lam_rel: weight of the squared error in units of the whole model's cost, instead.
        theta: threshold that gates start with.
        alpha: temperature of the softmax over heads.

    Raises:
        FamilyError: the model is no plain vision transformer, or the target lies outside what
            gates can reach.
        RecipeError: not exactly one of ``lam`` and ``lam_rel`` is given.

    Example:
        >>> from sartor.nn import tiny_vit
        >>> search = SinglePathSearch(tiny_vit(), 6e5, lam_rel=20.0)
        >>> search.architecture().kinds
        ('attention', 'attention', 'attention', 'attention')
    """

    def __init__(
        self,
        model: nn.Module,
        target_macs: float,
        *,
        lam: float | None = None,
        lam_rel: float | None = None,
        theta: float = 1.5,
        alpha: float = 0.01,
    ) -> None:
        super().__init__()
        if (lam is None) == (lam_rel is None):
            raise RecipeError(f"Give either lam or lam_rel, got {lam} and {lam_rel}.")
        blocks = check_transformer(model)
        floor, dense = cost_bounds(model)
        if not floor < target_macs <= dense:
            raise FamilyError(
                f"The search can reach more than {floor:.4g} and up to {dense:.4g} multiply-adds, "
                f"got a target of {target_macs:.4g}."
            )
        self.fixed_macs, self.dense_macs = floor, dense
        self.model: Any = model
        self.target_macs, self.lam, self.lam_rel = float(target_macs), lam, lam_rel
        grid, prefix = patch_grid(model), prefix_tokens(model)
        for block in blocks:
            block.attn = UnifiedAttention.from_attention(
                block.attn, grid, prefix, theta=theta, alpha=alpha
            ).train(block.training)
            block.mlp = UnifiedMlp(block.mlp, theta=theta).train(block.training)
        self.patches = grid[0] * grid[1]
        self.tokens = self.patches + prefix

    @property
    def blocks(self) -> list[Any]:
        """Blocks that have gates."""
        return transformer_blocks(self.model)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> what the model gives with the gates of now."""
        outputs: Tensor = self.model(x)
        return outputs

    def arch_parameters(self) -> list[nn.Parameter]:
        """Thresholds: an optimiser of their own, without weight decay and clipping."""
        return [p for name, p in self.named_parameters() if name.endswith("thresholds")]

    def weight_parameters(self) -> list[nn.Parameter]:
        """All others."""
        return [p for name, p in self.named_parameters() if not name.endswith("thresholds")]

    def macs(self) -> Tensor:
        """Multiply-adds of the gates cut at one half, with a gradient to the thresholds."""
        thresholds = self.arch_parameters()[0]
        total = thresholds.new_tensor(self.fixed_macs, dtype=torch.float64)
        for block in self.blocks:
            dim, heads = block.attn.dim, block.attn.num_heads
            low, middle, high = branch_macs(dim, heads, self.patches, self.tokens)
            one, two, three = hard_gates(block.attn.thresholds.double()).cumprod(dim=0)
            total = total + one * low + two * (middle - low) + three * (high - middle)
            units = hard_gates(block.mlp.thresholds.double()).sum()
            total = total + 2 * self.patches * dim * units
        return total

    def complexity_loss(self) -> Tensor:
        """The penalty for another cost than the target."""
        off = self.macs() - self.target_macs
        if self.lam is not None:
            return self.lam * (off / 1e9).square()
        assert self.lam_rel is not None
        return self.lam_rel * (off / self.dense_macs).square()

    def architecture(self) -> Architecture:
        """What the gates choose now."""
        return Architecture(
            kinds=tuple(block.attn.kind for block in self.blocks),
            units=tuple(tuple(block.mlp.kept.tolist()) for block in self.blocks),
        )

    @torch.no_grad()
    def meet_target_(self) -> Architecture:
        """Move the cut between open and closed hidden units until the cost meets the target.

        Kinds of attention stay; of all hidden units those with the largest thresholds stay, as
        many as the target allows.

        Returns:
            The architecture, which the gates then choose.
        """
        kinds = self.architecture().kinds
        thresholds = [block.mlp.thresholds.clone() for block in self.blocks]
        every = torch.cat(thresholds)
        costs = torch.cat(
            [
                torch.full((len(one),), 2.0 * self.patches * block.attn.dim, dtype=torch.float64)
                for one, block in zip(thresholds, self.blocks, strict=True)
            ]
        )
        self.choose(Architecture(kinds=kinds, units=((),) * len(kinds)))
        order = every.argsort(descending=True, stable=True).cpu()
        room = self.target_macs - float(self.macs())
        count = int((costs[order].cumsum(0) <= room).sum())
        best = order[:count].sort().values.tolist()
        units, first = [], 0
        for one in thresholds:
            units.append(tuple(i - first for i in best if first <= i < first + len(one)))
            first += len(one)
        found = Architecture(kinds=kinds, units=tuple(units))
        self.choose(found)
        return found

    def choose(self, architecture: Architecture) -> None:
        """Set all gates so that they choose an architecture."""
        for block, kind, units in zip(
            self.blocks, architecture.kinds, architecture.units, strict=True
        ):
            block.attn.choose(kind)
            block.mlp.choose(list(units))
