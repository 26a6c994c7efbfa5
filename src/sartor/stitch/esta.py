"""ESTA: adapt a stitched family to a task with few parameters, and deploy what training found good.

Source: He, Pan, Liu, Cai, Zhuang, Efficient Stitchable Task Adaptation, CVPR 2024, arXiv
2311.17352. The official repository holds no code. From the paper: low-rank updates of
self-attention and stitching layers that all stitches share, biases of each stitch, importance
gathered in training, sampling and deployment by importance. Decided here: every beta starts at
zero, a stitch has one in each adapted layer of its route and none elsewhere; rank 8, scale 1;
stitching layers keep their least-squares map frozen; the classifiers of the anchors are trained in
full; anchors alone count as stitches; importance is summed over B and the biases. Deviation: the
loss is the caller's, no distillation is built in.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sartor.core.errors import FamilyError, NoEffectError, RecipeError
from sartor.stitch.importance import StitchImportance
from sartor.stitch.network import StitchableNetwork
from sartor.stitch.stitch_lora import ActiveConfig, StitchSpecificLoRALinear

__all__ = ["AdaptedNetwork", "EstaSettings", "adapt_stitchable"]


@dataclass(frozen=True, kw_only=True)
class EstaSettings:
    """What is adapted, and how importance is gathered.

    Attributes:
        rank: of the low-rank updates, 1 to the smallest width of an adapted layer.
        alpha: scale of the updates times the rank; ``None`` for a scale of 1.
        target_modules: ends of the dotted names of the linear layers in blocks that are adapted.
        stitch_layers: whether stitching layers are adapted too.
        stitch_bias: whether each configuration has biases of its own.
        train_head: whether the linear layers of the anchors' heads are trained in full.
        momentum: of the importance, in [0, 1).
        warmup_visits: how often each configuration is trained before its scores count.
    """

    rank: int = 8
    alpha: float | None = None
    target_modules: tuple[str, ...] = ("attn.qkv", "attn.proj")
    stitch_layers: bool = True
    stitch_bias: bool = True
    train_head: bool = True
    momentum: float = 0.9
    warmup_visits: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, str):
            raise RecipeError(
                f"target_modules is a tuple of names, got the text {self.target_modules!r}; write "
                f"({self.target_modules!r},)."
            )
        if self.rank < 1:
            raise RecipeError(f"The rank of low-rank updates must be at least 1, got {self.rank}.")


class AdaptedNetwork(StitchableNetwork):
    """A stitched network whose frozen layers have shared low-rank updates and biases of each
    configuration.

    It has modules of its own and shares the frozen weights with the network that it was made of, so
    that one set of anchors serves many tasks; do not train that network afterwards.

    Args:
        network: initialised by least squares; stays as it is.
        settings: what is adapted.

    Attributes:
        importance: of the configurations, gathered by :meth:`score_step`; saved with the weights.

    Raises:
        FamilyError: a layer that is to be adapted is not linear, or weights are shared within the
            network.
        NoEffectError: a name in ``target_modules`` matches no layer of any block.
        RecipeError: the rank is larger than a layer allows.
    """

    def __init__(self, network: StitchableNetwork, settings: EstaSettings | None = None) -> None:
        settings = settings or EstaSettings()
        frozen = {id(p): nn.Parameter(p.detach(), False) for p in network.parameters()}
        own = copy.deepcopy(network, frozen)  # type: ignore[arg-type]
        super().__init__(list(own.anchors), own._example, own.configs)  # type: ignore[arg-type]
        self.stitch_layers = own.stitch_layers
        self._flops = tuple(network.flops(index) for index in range(network.num_configs))
        self._active = ActiveConfig()
        self.importance = StitchImportance(
            self.num_configs, settings.momentum, warmup_visits=settings.warmup_visits
        )
        owners = _owners(self)
        self._inject(settings, owners)
        if settings.train_head:
            self._train_heads(owners)
        self._routes = tuple(tuple(self._modules_of(config)) for config in self.configs)
        self.set_config(0)

    def set_config(self, index: int) -> None:
        """Choose a configuration, its biases included; nothing is copied or allocated.

        Raises:
            FamilyError: there is no such configuration.
        """
        super().set_config(index)
        self._active.index = index

    def num_params(self, index: int) -> int:
        """Parameters of configuration ``index`` once it is extracted."""
        modules = nn.ModuleList(self._route_of(index)).modules()
        adapted = [m for m in modules if isinstance(m, StitchSpecificLoRALinear)]
        held = sum(p.numel() for layer in adapted for p in layer.parameters())
        return super().num_params(index) - held + sum(layer.num_params(index) for layer in adapted)

    @property
    def trainable_params(self) -> int:
        """Number of values that are trained: updates, biases and heads."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def no_weight_decay(self) -> frozenset[str]:
        """Names of the parameters that an optimiser must not decay: the biases of configurations.

        Those of an inactive configuration get no gradient, which leaves them alone.
        """
        return frozenset(name for name, _ in self.named_parameters() if ".stitch_bias." in name)

    def score_step(self, *, grad_scale: float = 1.0) -> None:
        """Add the score of the configuration that just ran to :attr:`importance`; call it after
        backward, before clipping and the optimiser's step.

        Scored is what starts at zero, B and the biases: A starts at random and the head is the same
        for many configurations, so that they say less about a route.

        Args:
            grad_scale: factor that the gradients carry, such as that of an fp16 gradient scaler.

        Raises:
            TrainingError: the score is not finite.
        """
        layers = (m for m in self.modules() if isinstance(m, StitchSpecificLoRALinear))
        learned = (p for layer in layers for p in layer.learned_parameters())
        self.importance.update(self._active.index, learned, grad_scale=grad_scale)

    def select(self, num_intervals: int = 3, top_k: int = 1) -> list[int]:
        """Choose what to deploy without evaluating anything: in each interval of FLOPs the most
        important configurations, and all anchors.

        Args:
            num_intervals: equally wide intervals of FLOPs, at least 1.
            top_k: stitches of each interval, at least 1.

        Returns:
            Indices, from the cheapest to the costliest.

        Raises:
            RecipeError: some configuration has no score yet.
        """
        anchors = range(len(self.anchors))
        return self.importance.select(self._flops, num_intervals, top_k, keep=anchors)

    def _train_heads(self, owners: Mapping[int, Sequence[str]]) -> None:
        """Give the linear layers of the heads weights of their own, to be trained."""
        anchors: Any = self.anchors
        for number, anchor in enumerate(anchors):
            for name, module in anchor.head.named_modules():
                if isinstance(module, nn.Linear):
                    _refuse_tied(module, f"anchors.{number}.head.{name}", owners)
                    for key, parameter in list(module.named_parameters(recurse=False)):
                        setattr(module, key, nn.Parameter(parameter.detach().clone()))

    def _inject(self, settings: EstaSettings, owners: Mapping[int, Sequence[str]]) -> None:
        """Put an adapted layer in the place of each target and, if asked, each stitching layer."""
        routes = [
            {m for part in self._modules_of(config) for m in part.modules()}
            for config in self.configs
        ]
        places = _targets(self, settings.target_modules)
        if settings.stitch_layers:
            places += [(self.stitch_layers, key, f"stitch_layers.{key}") for key in self._grids]
        for owner, key, name in places:
            layer = owner.get_submodule(key)
            if not isinstance(layer, nn.Linear):
                raise FamilyError(
                    f"ESTA adapts linear layers, but {name} is a {type(layer).__name__}; give "
                    "other target_modules, or models with channels last."
                )
            _refuse_tied(layer, name, owners)
            visited = [i for i, route in enumerate(routes) if layer in route]
            try:
                adapted = StitchSpecificLoRALinear(
                    layer,
                    settings.rank,
                    self.num_configs,
                    settings.alpha,
                    visited if settings.stitch_bias else (),
                    active=self._active,
                )
            except RecipeError as error:
                raise RecipeError(f"The layer {name} cannot be adapted: {error}") from error
            setattr(owner, key, adapted)


def adapt_stitchable(
    network: StitchableNetwork, settings: EstaSettings | None = None
) -> AdaptedNetwork:
    """Freeze a stitched network and give it what ESTA trains.

    Args:
        network: stitching layers initialised on images of the new task; stays as it is. Where
            classes differ from those of pretraining, give its models new heads before.
        settings: what is adapted.

    Returns:
        A network with the same configurations and, before training, the same outputs.

    Example:
        >>> net = adapt_stitchable(stitch(family, example))  # doctest: +SKIP
        >>> net.trainable_params / sum(p.numel() for p in net.parameters())  # doctest: +SKIP
        0.12
    """
    return AdaptedNetwork(network, settings)


def _targets(network: StitchableNetwork, names: Sequence[str]) -> list[tuple[nn.Module, str, str]]:
    """Owner, key and full name of each layer in a block whose name ends with a target's."""
    found: list[tuple[nn.Module, str, str]] = []
    hit, linear = set(), {}
    anchors: Any = network.anchors
    for number, anchor in enumerate(anchors):
        for name, module in anchor.stages.named_modules():
            targets = [target for target in names if f".{name}".endswith(f".{target}")]
            hit.update(targets)
            if isinstance(module, nn.Linear):
                linear[name.split(".", 2)[-1]] = True
            if targets:
                owner, _, key = name.rpartition(".")
                full = f"anchors.{number}.stages.{name}"
                found.append((anchor.stages.get_submodule(owner), key, full))
    missing = [target for target in names if target not in hit]
    if missing:
        raise NoEffectError(
            f"No layer of any block is called {missing[0]!r}; the linear layers of blocks are "
            f"{', '.join(linear) or 'none at all'}: name some of them in target_modules."
        )
    return found


def _owners(network: nn.Module) -> dict[int, list[str]]:
    """The names of the modules that hold each parameter, by its id."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].append(name)
    return owners


def _refuse_tied(layer: nn.Module, name: str, owners: Mapping[int, Sequence[str]]) -> None:
    for parameter in layer.parameters():
        others = [owner for owner in owners[id(parameter)] if owner != name]
        if others:
            raise FamilyError(
                f"The layers {name} and {others[0]} are tied to the same weights, so that adapting "
                "one would change the other; give each weights of its own and stitch again."
            )
