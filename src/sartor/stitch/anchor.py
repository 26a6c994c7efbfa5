"""Anchors: a pretrained model as embedding, blocks by stage, and head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["Anchor", "Stage"]


@dataclass(frozen=True)
class Stage:
    """Blocks between which stitches may lie, and what runs before the first of them
    (downsampling).
    """

    enter: tuple[nn.Module, ...]
    blocks: tuple[nn.Module, ...]
    leave: tuple[nn.Module, ...] = ()


class Anchor(nn.Module):
    """A model as ``embed``, ``stages`` and ``head``; run in that order it equals the model bit for
    bit.

    Attributes:
        name: the member's name.
        layout: where the channels of a feature are: ``"last"`` for tokens (B, N, C) and maps (B, H,
            W, C), ``"first"`` for maps (B, C, H, W).
    """

    def __init__(
        self,
        name: str,
        embed: nn.Module,
        stages: Sequence[Stage],
        head: nn.Module,
        layout: str = "last",
    ) -> None:
        super().__init__()
        self.name, self.layout = name, layout
        self.embed, self.head = embed, head
        self.enter = nn.ModuleList(nn.Sequential(*stage.enter) for stage in stages)
        self.stages = nn.ModuleList(nn.ModuleList(stage.blocks) for stage in stages)
        self.leave = nn.ModuleList(nn.Sequential(*stage.leave) for stage in stages)

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks in each stage."""
        return tuple(len(stage) for stage in self.stages)  # type: ignore[arg-type]

    def until(self, stage: int, block: int) -> list[nn.Module]:
        """Modules from the input up to and including ``block`` of ``stage``."""
        modules = [self.embed]
        for index in range(stage):
            modules += [*self.enter[index], *self.stages[index], *self.leave[index]]
        return [*modules, *self.enter[stage], *list(self.stages[stage])[: block + 1]]

    def after(self, stage: int, block: int) -> list[nn.Module]:
        """Modules from ``block`` of ``stage`` to the logits, without what enters that stage."""
        modules = [*list(self.stages[stage])[block:], *self.leave[stage]]
        for index in range(stage + 1, len(self.stages)):
            modules += [*self.enter[index], *self.stages[index], *self.leave[index]]
        return [*modules, self.head]

    def whole(self) -> list[nn.Module]:
        """Every module, in order."""
        return self.until(0, -1) + self.after(0, 0)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, ...) -> logits (B, K)."""
        for module in self.whole():
            inputs = module(inputs)
        return inputs
