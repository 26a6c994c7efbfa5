"""The stitchable network: anchors joined by stitching layers, and the routes through them.

What every stitching method shares; a method says which routes there are and what a stitching layer
is.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.elastic import Elastic
from sartor.core.errors import FamilyError
from sartor.core.modes import eval_mode
from sartor.measure import count_flops
from sartor.stitch.anchor import Anchor
from sartor.stitch.features import CONVOLUTIONS, channels_last, channels_of, same_grid, trace
from sartor.stitch.folding import folded
from sartor.stitch.least_squares import least_squares_affine
from sartor.stitch.plan import Stitch, StitchConfig

__all__ = ["LayerMaker", "Route", "StitchableNetwork", "affine_layer"]

LayerMaker = Callable[[int, int, str, Tensor], nn.Module]


class Route(nn.Module):
    """A plain module: embedding, blocks in order, head."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.embed, self.head = modules[0], modules[-1]
        self.blocks = nn.Sequential(*modules[1:-1])

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, ...) -> logits (B, K)."""
        logits: Tensor = self.head(self.blocks(self.embed(inputs)))
        return logits


class StitchableNetwork(Elastic):
    """Anchors joined by stitching layers; ``set_config`` chooses the route of the next forward
    passes.

    Args:
        anchors: cut by :func:`~sartor.stitch.discovery.find_anchor`; their modules are used, not
            copied.
        example: inputs (B, ...) that all anchors take.
        configs: the routes, the anchors alone first; those whose features do not fit together are
            left out.
        make_layer: makes a stitching layer with ``weight`` and ``bias``.
        spare: stitches that get a layer although no route has them.

    Raises:
        FamilyError: features fit together nowhere.

    Example:
        >>> net = stitch(family, task.example)  # doctest: +SKIP
        >>> net.set_config(5)  # doctest: +SKIP
        >>> logits = net(images)  # doctest: +SKIP
    """

    def __init__(
        self,
        anchors: Sequence[Anchor],
        example: Tensor,
        configs: Sequence[StitchConfig],
        make_layer: LayerMaker | None = None,
        spare: Sequence[Stitch] = (),
    ) -> None:
        super().__init__()
        make_layer = make_layer or affine_layer
        self.layout = _common_layout(anchors)
        self.anchors = nn.ModuleList(anchors)
        self.stitch_layers = nn.ModuleDict()
        self._grids: dict[str, int] = {}  # positions of one input that a stitching layer maps
        traces = [trace(anchor, example[:1]) for anchor in anchors]
        self._configs = tuple(
            c
            for c in configs
            if all(same_grid(*_joint(traces, s), layout=self.layout) for s in c.stitches)
        )
        if len(self._configs) == len(anchors) > 1:
            raise FamilyError(
                f"No block of {', '.join(a.name for a in anchors)} can hand over to a later block "
                "of a larger one, as the features differ in height, width or number of tokens or "
                "no later block is left; give models with the same input and patch size, from "
                "shallow to deep."
            )
        self._stitches = {s for c in self._configs for s in c.stitches} | set(spare)
        for stitch in (*(s for c in self._configs for s in c.stitches), *spare):
            if stitch.key not in self.stitch_layers:
                joint = _joint(traces, stitch)
                widths = [channels_of(f, self.layout) for f in joint]
                self.stitch_layers[stitch.key] = make_layer(*widths, self.layout, joint[0])
                self._grids[stitch.key] = joint[0].numel() // widths[0]
        self._routes = tuple(tuple(self._modules_of(c)) for c in self._configs)
        self._example = example[:1]
        self._flops: tuple[int, ...] = ()
        self._chosen, self._route = 0, self._routes[0]

    @property
    def configs(self) -> tuple[StitchConfig, ...]:
        """The anchors, then the stitches in the order of the paper."""
        return self._configs

    @property
    def num_configs(self) -> int:
        """Number of configurations."""
        return len(self._configs)

    def set_config(self, index: int) -> None:
        """Choose a configuration; nothing is copied or allocated.

        Raises:
            FamilyError: there is no such configuration.
        """
        self._chosen, self._route = index, self._route_of(index)

    def sample_config(self, generator: torch.Generator | None = None) -> int:
        """Draw a configuration uniformly, set it and return its number."""
        index = int(torch.randint(len(self._configs), (), generator=generator))
        self.set_config(index)
        return index

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, ...) -> logits (B, K), along the chosen route."""
        for module in self._route:
            inputs = module(inputs)
        return inputs

    def train(self, mode: bool = True) -> StitchableNetwork:
        """Set the mode; batch norm stays in eval mode, as its statistics would mix the routes."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False
        return self

    def extract(self, index: int) -> nn.Module:
        """Copy configuration ``index`` out as a plain module that has only the modules of its
        route, foldable layers folded; the chosen configuration stays.

        Raises:
            FamilyError: there is no such configuration.
        """
        return folded(copy.deepcopy(Route(self._route_of(index))), index)

    def flops(self, index: int) -> int:
        """FLOPs of configuration ``index`` for one input, multiply and add counted apart."""
        self._route_of(index)
        self._flops = self._flops or self._count_flops()
        return self._flops[index]

    def num_params(self, index: int) -> int:
        """Parameters on the route of configuration ``index``."""
        return sum(p.numel() for p in nn.ModuleList(self._route_of(index)).parameters())

    @torch.no_grad()
    def init_stitches(self, batch: Tensor, ridge: float = 0.0) -> None:
        """Set every stitching layer to the least-squares map between the features that it joins.

        A layer that several stitches share gets the mean of their maps.

        Args:
            batch: clean inputs (B, ...); the paper takes 100 training images.
            ridge: strength of a penalty on the weights, at least 0.
        """
        traces = [trace(anchor, batch) for anchor in self.anchors]
        maps: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for stitches in _by_front(self._stitches):
            ends = [channels_last(_joint(traces, s)[1], self.layout) for s in stitches]
            front = channels_last(_joint(traces, stitches[0])[0], self.layout)
            weight, bias = least_squares_affine(front, torch.cat(ends, dim=-1), ridge)
            widths = [end.shape[-1] for end in ends]
            for stitch, w, b in zip(
                stitches, weight.split(widths), bias.split(widths), strict=True
            ):
                maps[stitch.key].append((w, b))
        self.stitch_layers.train()  # in which layers with a merged weight have it apart
        for key, pairs in maps.items():
            layer: Any = self.stitch_layers[key]
            layer.weight.copy_(torch.stack([w for w, _ in pairs]).mean(0).view_as(layer.weight))
            layer.bias.copy_(torch.stack([b for _, b in pairs]).mean(0))
        self.stitch_layers.train(self.training)

    def _route_of(self, index: int) -> tuple[nn.Module, ...]:
        if not 0 <= index < len(self._routes):
            raise FamilyError(
                f"There is no configuration {index}; choose among 0 to {len(self._routes) - 1}."
            )
        return self._routes[index]

    def _modules_of(self, config: StitchConfig) -> list[nn.Module]:
        anchors: Any = self.anchors
        if not config.stitches:
            return list(anchors[config.anchors[0]].whole())
        first, last = config.stitches[0], config.stitches[-1]
        modules = anchors[first.front].until(first.stage, first.j)
        for stitch, following in zip(config.stitches, config.stitches[1:], strict=False):
            middle = anchors[stitch.end].stages[stitch.stage][stitch.q : following.j + 1]
            modules += [self.stitch_layers[stitch.key], *middle]
        return [
            *modules,
            self.stitch_layers[last.key],
            *anchors[last.end].after(last.stage, last.q),
        ]

    def _count_flops(self) -> tuple[int, ...]:
        """Count every module once, at the input it gets, and add up along each route."""
        counted: dict[nn.Module, int] = {}
        with eval_mode(self), torch.no_grad():
            for route in self._routes[: len(self.anchors)]:
                features = self._example.to(next(self.parameters()).device)
                for module in route:
                    counted[module] = count_flops(module, features)
                    features = module(features)
        for key, grid in self._grids.items():
            layer: Any = self.stitch_layers[key]
            counted[layer] = 2 * grid * layer.weight.numel()
        return tuple(sum(counted[module] for module in route) for route in self._routes)


def _common_layout(anchors: Sequence[Anchor]) -> str:
    layouts = {anchor.name: anchor.layout for anchor in anchors}
    if len(set(layouts.values())) > 1:
        raise FamilyError(
            f"The models mix channels-first and channels-last features ({layouts}); stitch models "
            "of one kind."
        )
    return anchors[0].layout


def _joint(traces: Sequence[Any], stitch: Stitch) -> tuple[Tensor, Tensor]:
    """Output of the front block, and input of the end block, that a stitch joins; the end of a
    stage is what leaves its last block.
    """
    front, end = traces[stitch.front], traces[stitch.end]
    at = (stitch.stage, stitch.q)
    into = end[at][0] if at in end else end[stitch.stage, stitch.q - 1][1]
    return front[stitch.stage, stitch.j][1], into


def _by_front(stitches: set[Stitch]) -> list[list[Stitch]]:
    """Groups that share the features they start from, so that one factorisation serves a group."""
    groups: dict[tuple[int, int, int], list[Stitch]] = defaultdict(list)
    for stitch in sorted(stitches, key=lambda s: (s.front, s.end, s.stage, s.j, s.q)):
        groups[stitch.front, stitch.stage, stitch.j].append(stitch)
    return list(groups.values())


def affine_layer(in_features: int, out_features: int, layout: str, features: Tensor) -> nn.Module:
    """Make an affine map of the channels, on the features' device and in their precision.

    Args:
        in_features: channels of the features that leave the front anchor.
        out_features: channels that the end anchor takes.
        layout: where channels are, ``"first"`` or ``"last"``.
        features: of one input, as they leave the front anchor.
    """
    where: dict[str, Any] = {"device": features.device, "dtype": features.dtype}
    if layout == "first":
        convolution: Any = CONVOLUTIONS[features.ndim]
        layer: nn.Module = convolution(in_features, out_features, kernel_size=1, **where)
        return layer
    return nn.Linear(in_features, out_features, **where)
