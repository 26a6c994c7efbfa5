"""Meta-Pooling: each block of a light network learns its receptive field by choosing a pooling.

Source: Dong, Niu, Tian, Li, Wang, Wei, Pan, Li, Progressive Meta-Pooling Learning for Lightweight
    Image Classification Model, ICASSP 2023, arXiv 2301.10038. Deviations: the choice is the most
    probable candidate, where the released code's comparison always took the second; choices are
    made by explicit calls, never inside a forward pass.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError, NoEffectError, nearest
from sartor.core.packages import require
from sartor.nn.backbone import Backbone
from sartor.nn.ghostnetv3.branches import conv_bn_pairs
from sartor.nn.meta_pooling.candidates import make_candidate, window

__all__ = [
    "BACKBONES",
    "CANDIDATES",
    "MetaPooling",
    "apply_choices",
    "insert_meta_pooling",
    "meta_poolings",
    "mobilenetv2_metapool",
    "receptive_field",
]

CANDIDATES = ("skip", "max3", "max5", "max7", "avg3", "avg5", "avg7", "sep")
_ACTIVATIONS = {"hard_swish": nn.Hardswish, "relu": nn.ReLU, "none": nn.Identity}


def receptive_field(windows: Iterable[int]) -> int:
    """Side of what one pixel sees after windows of stride 1 on one another.

    Example:
        >>> receptive_field([3, 7])
        9
    """
    return 1 + sum(size - 1 for size in windows)


class MetaPooling(nn.Module):
    """Mixture of poolings, then a batch norm and an activation; after a choice the chosen alone.

    While it is searched the outputs are ``act(norm(sum_o softmax(alpha)_o * o(x)))``; afterwards
    the chosen are summed with weight 1, so that the norm has to take in another scale.

    Args:
        channels: C.
        candidates: names that :func:`~sartor.nn.meta_pooling.candidates.make_candidate` knows.
        threshold: distance of the two highest probabilities from which the choice is made, in
            (0, 1].
        norm: whether there is a batch norm.
        act: ``hard_swish``, ``relu`` or ``none``.
        split_ratio: share of the channels that pass by, in (0, 1); ``None`` for none.

    Raises:
        FamilyError: a candidate is unknown or repeated, or a number is out of range.

    Example:
        >>> layer = MetaPooling(8, ("skip", "max3"))
        >>> layer.fix(["max3"])
        >>> layer.choice, layer(torch.randn(2, 8, 4, 4)).shape
        (('max3',), torch.Size([2, 8, 4, 4]))
    """

    def __init__(
        self,
        channels: int,
        candidates: Sequence[str] = CANDIDATES,
        *,
        threshold: float = 0.2,
        norm: bool = True,
        act: str = "hard_swish",
        split_ratio: float | None = None,
    ) -> None:
        super().__init__()
        if not candidates or len({*candidates}) != len(candidates):
            raise FamilyError(f"Candidates are at least one, each once, got {(*candidates,)}.")
        if act not in _ACTIVATIONS:
            raise FamilyError(f"There is no activation {act!r}; {nearest(act, _ACTIVATIONS)}")
        self.bypass = 0 if split_ratio is None else int(channels * split_ratio)
        if not 0 < threshold <= 1 or (split_ratio is not None and not 0 < self.bypass < channels):
            raise FamilyError(
                "Meta-pooling takes a threshold in (0, 1] and a split_ratio that leaves channels "
                f"on both sides, got {threshold} and {split_ratio} of {channels} channels."
            )
        inner = channels - self.bypass
        self.channels, self.threshold = channels, threshold
        self.candidates = nn.ModuleDict({name: make_candidate(name, inner) for name in candidates})
        self.alpha: nn.Parameter | None = nn.Parameter(1e-3 * torch.randn(len(candidates)))
        self.norm = nn.BatchNorm2d(inner) if norm else nn.Identity()
        self.act = _ACTIVATIONS[act]()

    @property
    def fixed(self) -> bool:
        """Whether the choice is made."""
        return self.alpha is None

    @property
    def probs(self) -> dict[str, float]:
        """Probability of each candidate, highest first; 1 each for those that are chosen."""
        if self.alpha is None:
            return dict.fromkeys(self.candidates, 1.0)
        found = zip(self.candidates, self.alpha.detach().softmax(0).tolist(), strict=True)
        return dict(sorted(found, key=lambda pair: -pair[1]))

    @property
    def choice(self) -> tuple[str, ...]:
        """What is chosen, or the most probable candidate."""
        return tuple(self.candidates) if self.fixed else tuple(self.probs)[:1]

    @property
    def decided(self) -> bool:
        """Whether the most probable leads by the threshold."""
        first, second = [*self.probs.values(), 0.0][:2]
        return self.fixed or first - second >= self.threshold

    def fix(self, names: Iterable[str]) -> None:
        """Keep these candidates, with weight 1, and delete the others.

        Raises:
            FamilyError: a name is not among the candidates, or there is none.
        """
        chosen = tuple(names)
        for name in chosen:
            if name not in self.candidates:
                raise FamilyError(
                    f"The pooling {name!r} is not among the candidates; "
                    f"{nearest(name, self.candidates)}"
                )
        if not chosen:
            raise FamilyError("A choice needs at least one pooling; take skip to pool nothing.")
        self.candidates = nn.ModuleDict({name: self.candidates[name] for name in chosen})
        self.alpha = None

    def receptive_field(self) -> int:
        """Side of the largest window among :attr:`choice`."""
        return max(window(name) for name in self.choice)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W).

        Raises:
            DataError: a window is larger than twice the map.
        """
        inner = x[:, self.bypass :]
        parts = [pool(inner) for pool in self.candidates.values()]
        if self.alpha is not None:
            weights = self.alpha.softmax(0)
            parts = [weights[index] * part for index, part in enumerate(parts)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        outputs: Tensor = self.act(self.norm(total))
        return torch.cat((x[:, : self.bypass], outputs), dim=1) if self.bypass else outputs


def meta_poolings(model: nn.Module) -> dict[str, MetaPooling]:
    """All of a model, by dotted name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, MetaPooling)}


def insert_meta_pooling(
    model: nn.Module,
    example: Tensor,
    candidates: Sequence[str] = CANDIDATES,
    *,
    match: str = "*.conv_dw",
    min_kernel: int = 3,
    **kwargs: Any,
) -> nn.Module:
    """Give a copy of a model meta-pooling after the batch norm of each depthwise convolution.

    Blocks without an expansion (timm's ``DepthwiseSeparableConv``) are left alone.

    Args:
        model: MobileNets, EfficientNets, MnasNets and GhostNets of timm, or any whose depthwise
            convolutions ``match`` names.
        example: inputs (B, ...), on which the norms are found.
        candidates: see :class:`MetaPooling`.
        match: wildcard for the dotted name of a convolution.
        min_kernel: depthwise kernels below it are left alone.
        **kwargs: further arguments of :class:`MetaPooling`.

    Raises:
        NoEffectError: there is no such convolution.
        FamilyError: an argument of :class:`MetaPooling` is illegal.
    """
    pairs = conv_bn_pairs(model, example)
    made, found = copy.deepcopy(model), 0
    for conv_name, norm_name in pairs.items():
        conv, norm = made.get_submodule(conv_name), made.get_submodule(norm_name)
        block = made.get_submodule(conv_name.rpartition(".")[0])
        assert isinstance(conv, nn.Conv2d)
        depthwise = conv.groups == conv.in_channels > 1 and max(conv.kernel_size) >= min_kernel
        expanded = type(block).__name__ != "DepthwiseSeparableConv"
        if depthwise and expanded and fnmatch.fnmatch(conv_name, match):
            pooling = MetaPooling(conv.out_channels, candidates, **kwargs)
            pooling = pooling.to(conv.weight.device, conv.weight.dtype).train(norm.training)
            made.set_submodule(norm_name, nn.Sequential(norm, pooling))
            found += 1
    if not found:
        raise NoEffectError(
            f"No depthwise convolution of at least {min_kernel} x {min_kernel} with a batch norm "
            f"matches {match!r}; give the wildcard of the model's own names."
        )
    return made


def apply_choices(model: nn.Module, choices: Mapping[str, Sequence[str]]) -> nn.Module:
    """Make the static net: a copy in which every meta-pooling has its choice.

    Args:
        model: with meta-poolings.
        choices: dotted name of each -> names of its poolings, as a search exports them.

    Raises:
        FamilyError: names differ from the model's, or a pooling is not among the candidates.
    """
    made = copy.deepcopy(model)
    layers = meta_poolings(made)
    for name in (*layers, *choices):
        if name not in choices or name not in layers:
            raise FamilyError(
                f"The choices and the model differ in {name!r}; give those of this architecture."
            )
    for name, layer in layers.items():
        layer.fix(choices[name])
    return made


def mobilenetv2_metapool(
    choice: Sequence[str] = ("max3", "skip"),
    *,
    base: str = "mobilenetv2_100",
    searchable: bool = False,
    candidates: Sequence[str] = CANDIDATES,
    **kwargs: Any,
) -> nn.Module:
    """Make timm's MobileNetV2 with meta-pooling in its 16 expanded blocks, untrained.

    Args:
        choice: poolings of every block.
        base: name in timm of the MobileNetV2.
        searchable: whether the blocks have all ``candidates`` to choose from instead.
        candidates: see :class:`MetaPooling`.
        **kwargs: of timm: ``num_classes``, ``in_chans`` and so on.

    Raises:
        FamilyError: a pooling is unknown.
    """
    model = require("timm").create_model(base, **kwargs)
    example = torch.zeros(1, kwargs.get("in_chans", 3), 32, 32)
    made = insert_meta_pooling(model, example, candidates if searchable else choice)
    if not searchable:
        made = apply_choices(made, dict.fromkeys(meta_poolings(made), choice))
    return made


BACKBONES = (
    Backbone(
        name="mobilenetv2_100_metapool",
        model=mobilenetv2_metapool,
        first_conv="conv_stem",
        classifier="classifier",
        features={"feature_cls": "getter", "out_indices": (0, 1, 2, 3, 4)},
    ),
)
