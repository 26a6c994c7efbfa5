"""Dense prediction with one network of many sizes: a two-way backbone and one head over its taps.

Source: Pan, Liu, He, Cai, Zhuang, 2024, arXiv 2307.00154, section 3.4.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sartor.core.elastic import Elastic
from sartor.core.errors import FamilyError
from sartor.core.family import Family, Member
from sartor.measure import count_flops
from sartor.nn.dense_vit import DenseViT
from sartor.stitch.folding import folded
from sartor.stitch.plan import StitchConfig
from sartor.stitch.sn_netv2 import TwoWayNetwork, TwoWaySettings, stitch_two_way
from sartor.stitch.taps import check_out_indices, collect

__all__ = ["DenseNetwork", "DenseRoute", "is_dense", "stitch_dense"]


class DenseRoute(nn.Module):
    """A plain module: a route up to its last tap, the taps, the head.

    Args:
        steps: modules from the inputs on.
        taps: for each map that the head reads: its position among the steps, and what to send it
            through.
        head: maps the list of maps to the output.
    """

    def __init__(
        self,
        steps: Sequence[nn.Module],
        taps: Sequence[tuple[int, nn.Module | None]],
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.steps, self.head = nn.ModuleList(steps), head
        self.at = tuple(position for position, _ in taps)
        self.layers = nn.ModuleList(layer or nn.Identity() for _, layer in taps)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, C, H, W) -> what the head makes of the maps."""
        taps = zip(self.at, self.layers, strict=True)
        outputs: Tensor = self.head(collect(self.steps, taps, inputs))
        return outputs


class DenseNetwork(Elastic):
    """A two-way stitched backbone under one head, whose size is a number.

    Args:
        backbone: stitched with ``dense``.
        out_indices: blocks of the large anchor that the head reads, increasing.
        head: maps the list of their maps (B, C_large, h, w) to the output; every route uses it.
        example: inputs (B, C, H, W).

    Raises:
        FamilyError: the indices are illegal.
    """

    def __init__(
        self,
        backbone: TwoWayNetwork,
        out_indices: Sequence[int],
        head: nn.Module,
        example: Tensor,
    ) -> None:
        super().__init__()
        check_out_indices(out_indices, backbone.depths[1])
        self.backbone, self.head = backbone, head
        self.out_indices = tuple(out_indices)
        self._example = example[:1]
        self._routes = tuple(
            backbone.tapped(index, out_indices) for index in range(backbone.num_configs)
        )
        self._flops: dict[int, int] = {}
        self._chosen = 0

    @property
    def configs(self) -> tuple[StitchConfig, ...]:
        """Those of the backbone."""
        return self.backbone.configs

    @property
    def num_configs(self) -> int:
        """Number of configurations."""
        return len(self._routes)

    def set_config(self, index: int) -> None:
        """Choose a configuration; nothing is copied or allocated.

        Raises:
            FamilyError: there is no such configuration.
        """
        self.backbone.set_config(index)
        self._chosen = index

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, C, H, W) -> output, along the chosen route."""
        steps, taps = self._routes[self._chosen]
        outputs: Tensor = self.head(collect(steps, taps, inputs))
        return outputs

    def extract(self, index: int) -> nn.Module:
        """Copy configuration ``index`` out as a plain module, foldable layers folded.

        Raises:
            FamilyError: there is no such configuration.
        """
        steps, taps = self._route_of(index)
        return folded(copy.deepcopy(DenseRoute(steps, taps, self.head)), index)

    def flops(self, index: int) -> int:
        """FLOPs of configuration ``index`` for one input, multiply and add counted apart."""
        steps, taps = self._route_of(index)
        if index not in self._flops:
            example = self._example.to(next(self.parameters()).device)
            self._flops[index] = count_flops(DenseRoute(steps, taps, self.head), example)
        return self._flops[index]

    def num_params(self, index: int) -> int:
        """Parameters that configuration ``index`` uses."""
        steps, taps = self._route_of(index)
        return sum(p.numel() for p in DenseRoute(steps, taps, self.head).parameters())

    def init_stitches(self, batch: Tensor, ridge: float = 0.0) -> None:
        """Set every stitching layer of the backbone by least squares.

        Args:
            batch: clean inputs (B, C, H, W).
            ridge: strength of a penalty on the weights, at least 0.
        """
        self.backbone.init_stitches(batch, ridge)

    def _route_of(
        self, index: int
    ) -> tuple[tuple[nn.Module, ...], list[tuple[int, nn.Module | None]]]:
        if not 0 <= index < len(self._routes):
            raise FamilyError(
                f"There is no configuration {index}; choose among 0 to {len(self._routes) - 1}."
            )
        return self._routes[index]


def is_dense(family: Family) -> bool:
    """Whether every model is a backbone with a dense head."""
    return all(isinstance(model, DenseViT) for model in family.models)


def stitch_dense(
    family: Family, example: Tensor, settings: TwoWaySettings | None = None
) -> DenseNetwork:
    """Stitch copies of the backbones of two dense models under a copy of the large one's head.

    The large anchor alone equals the large model bit for bit; the small anchor alone is read
    through stitching layers and so equals the small model no more.

    Args:
        family: :class:`~sartor.nn.dense_vit.DenseViT` models, small to large.
        example: inputs (B, C, H, W) that they take.
        settings: the search space; ``dense`` is set.

    Raises:
        FamilyError: names the models, or the reason, that prevents stitching.
    """
    settings = replace(settings or TwoWaySettings(), dense=True)
    backbones, heads = [], []
    for member in settings.pair(family):
        if not isinstance(member.model, DenseViT):
            raise FamilyError(
                f"The model {member.name!r} ({type(member.model).__name__}) has no backbone and "
                "head that can be told apart; give DenseViT models."
            )
        backbones.append(Member(name=member.name, model=member.model.backbone))
        heads.append(member.model)
    net = stitch_two_way(Family(tuple(backbones)), example, replace(settings, anchors=None))
    head = copy.deepcopy(heads[-1].head)
    dense = DenseNetwork(net, heads[-1].out_indices, head, example)
    dense.eval()
    with torch.no_grad():
        dense(example[:1])
    return dense
