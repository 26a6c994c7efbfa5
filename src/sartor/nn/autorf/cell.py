"""AutoRF: cells of pooling that widen the receptive field of residual blocks.

Source: Dong, Niu, Wei, Pan, Li, Huang, AutoRF: Auto Learning Receptive Fields with Spatial Pooling,
    MultiMedia Modeling 2023. Deviations: a node sums its edges, as in the search; the released
    code's nets, which read their edges otherwise, are ``semantics="released"``. A MobileNet gets a
    cell in each block, in the release one after each stage.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError, NoEffectError
from sartor.nn.autorf.gates import ChannelGate
from sartor.nn.autorf.genotype import Genotype, genotype_named
from sartor.nn.autorf.ops import make_operation

__all__ = ["RFCell", "attention_slots", "insert_rf_cells"]

SEMANTICS = ("node-sum", "released")


class RFCell(nn.Module):
    """A quarter of the channels goes through the nodes of a genotype, comes back, is added, and
    channels are gated.

    Args:
        channels: C, a multiple of 16.
        genotype: or the name of a published one.
        reduction: of the gate, 1 to C.
        se: whether there is a gate.
        semantics: ``node-sum``, where a node is the sum of its edges, or ``released``, where every
            edge is a state of its own, edges count those states, and the last three are read.

    Raises:
        FamilyError: a number or ``semantics`` is out of range.
        RecipeError: there is no such genotype.

    Example:
        >>> RFCell(16, "P1")(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        genotype: Genotype | str = "P1",
        *,
        reduction: int = 4,
        se: bool = True,
        semantics: str = "node-sum",
    ) -> None:
        super().__init__()
        if channels % 16 or channels < 16 or not 1 <= reduction <= channels:
            raise FamilyError(
                "A cell needs a multiple of 16 channels and a reduction of 1 to their number, got "
                f"{channels} and {reduction}."
            )
        if semantics not in SEMANTICS:
            raise FamilyError(f"A cell is read as {' or '.join(SEMANTICS)}, got {semantics!r}.")
        found = genotype_named(genotype) if isinstance(genotype, str) else genotype
        self.genotype, self.semantics, inner = found, semantics, channels // 4
        self.squeeze = nn.Conv2d(channels, inner, 1, bias=False)
        self.operations = nn.ModuleList(
            make_operation(name, inner) for edges in found.nodes for name, _ in edges
        )
        self.expand = nn.Conv2d(inner * len(found.nodes), channels, 1, bias=False)
        self.gate = ChannelGate(channels, reduction) if se else nn.Identity()

    def states(self, x: Tensor) -> list[Tensor]:
        """What the last nodes give: three maps (B, C / 4, H, W), or as many as there are nodes."""
        states, operations = [self.squeeze(x)], iter(self.operations)
        for edges in self.genotype.nodes:
            outputs = [next(operations)(states[source]) for _, source in edges]
            if self.semantics == "released":
                states += outputs
                continue
            total = outputs[0]
            for output in outputs[1:]:
                total = total + output
            states.append(total)
        return states[-len(self.genotype.nodes) :]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        outputs: Tensor = self.gate(self.expand(torch.cat(self.states(x), dim=1)) + x)
        return outputs


def attention_slots(
    model: nn.Module, stages: Sequence[int] | None = None
) -> list[tuple[nn.Module, int]]:
    """Blocks of timm's ResNets and MobileNets that have room for an attention, ``se``, and the
    channels there.

    Args:
        model: with ``BasicBlock``, ``Bottleneck`` or ``InvertedResidual`` blocks; in the latter the
            room is after the depthwise convolution.
        stages: which stages, from 1; ``None`` for all.

    Raises:
        NoEffectError: there is no such block.
        FamilyError: a block has an attention already.
    """
    found: list[tuple[nn.Module, int]] = []
    for name, module in model.named_modules():
        block: Any = module
        kind = type(block).__name__
        resnet = kind in ("BasicBlock", "Bottleneck") and hasattr(block, "se")
        if not resnet and kind != "InvertedResidual":
            continue
        if stages is not None and _stage(name) not in stages:
            continue
        if not (block.se is None or isinstance(block.se, nn.Identity)):
            raise FamilyError(
                f"The block {name!r} has an attention already; take a model without one."
            )
        last = getattr(block, "bn3", None) or block.bn2
        found.append((block, last.num_features if resnet else block.conv_pwl.in_channels))
    if not found:
        raise NoEffectError(
            "No residual block of timm's ResNets or MobileNets is in these stages; they count from "
            "1."
        )
    return found


def insert_rf_cells(
    model: nn.Module,
    genotype: Genotype | str = "P1",
    *,
    stages: Sequence[int] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Give a copy of a model of timm a cell in each residual block: in a ResNet after the last
    norm, before the sum; in a MobileNet where squeeze and excitation would be.

    Args:
        model: see :func:`attention_slots`.
        genotype: or the name of a published one.
        stages: which stages, from 1; ``None`` for all.
        **kwargs: of :class:`RFCell`.

    Raises:
        NoEffectError: there is no such block.
        FamilyError: a block has an attention already, or its channels are no multiple of 16.
    """
    made = copy.deepcopy(model)
    for block, channels in attention_slots(made, stages):
        cell = RFCell(channels, genotype, **kwargs).train(block.training)
        block.se = cell.to(next(block.parameters()).device)
    return made


def _stage(name: str) -> int:
    """From 1: 3 of ``layer3.0``, and of ``blocks.2.0``."""
    first, second, *_ = name.split(".")
    return int(second) + 1 if first == "blocks" else int(first.removeprefix("layer"))
