"""A frozen linear layer with a low-rank update that all configurations share, and a bias for each.

Source: He, Pan, Liu, Cai, Zhuang, Efficient Stitchable Task Adaptation, CVPR 2024, arXiv
2311.17352. The update itself is LoRA (Hu et al., 2021, arXiv 2106.09685). The paper's code is not
public; where biases start and which configurations have one is decided here (see ``esta``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import FamilyError, RecipeError
from sartor.stitch.folding import Foldable

__all__ = ["ActiveConfig", "StitchSpecificLoRALinear"]


class ActiveConfig:
    """The configuration that runs: written by a network, read by its layers.

    Every network has one of its own. A deep copy of the network has a new one, which the copied
    layers share.
    """

    __slots__ = ("index",)

    def __init__(self) -> None:
        self.index = 0


class StitchSpecificLoRALinear(Foldable):
    """``W x + b + (alpha / rank) B A x + beta_s`` for the active configuration s; W and b are
    frozen.

    A starts Kaiming-uniform, B and every beta at zero, so the layer starts as ``base``. Each beta
    is a parameter of its own: those of other configurations get no gradient, and an optimiser
    leaves them alone.

    Args:
        base: is used, not copied, and frozen.
        rank: of the update, 1 to the smaller of the layer's widths.
        num_stitches: number S of configurations of the network.
        alpha: scale of the update times ``rank``; ``None`` for ``rank``, a scale of 1.
        visited: configurations that pass this layer, each with a beta; ``None`` for all, empty for
            a layer without.
        active: who says which configuration runs; ``None`` for the layer itself, by
            :meth:`set_stitch`.

    Raises:
        RecipeError: the rank does not fit, or a configuration is not among 0 to S - 1.

    Example:
        >>> layer = StitchSpecificLoRALinear(nn.Linear(12, 36), rank=4, num_stitches=9)
        >>> sum(p.numel() for p in layer.parameters() if p.requires_grad)
        516
        >>> layer.set_stitch(3)
        >>> layer(torch.zeros(2, 17, 12)).shape
        torch.Size([2, 17, 36])
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        num_stitches: int,
        alpha: float | None = None,
        visited: Iterable[int] | None = None,
        *,
        active: ActiveConfig | None = None,
    ) -> None:
        super().__init__()
        limit = min(base.in_features, base.out_features)
        if not 1 <= rank <= limit:
            raise RecipeError(
                f"The rank must lie in 1 to {limit} for a layer of {base.in_features} to "
                f"{base.out_features} features, got {rank}."
            )
        self.base = base.requires_grad_(False)
        self.num_stitches = num_stitches
        self.active = active or ActiveConfig()
        self.scale = (rank if alpha is None else alpha) / rank
        weight = base.weight
        self.lora_a = nn.Parameter(weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        chosen = range(num_stitches) if visited is None else sorted(set(visited))
        self.stitch_bias = nn.ParameterDict(
            {str(self._checked(s)): nn.Parameter(weight.new_zeros(len(weight))) for s in chosen}
        )

    @property
    def weight(self) -> Tensor:
        """The frozen weight (out, in)."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias (out,), if there is one."""
        return self.base.bias

    def set_stitch(self, index: int) -> None:
        """Choose the configuration of the next forward passes, for all layers of the network.

        Raises:
            FamilyError: there is no such configuration.
        """
        self.active.index = self._checked(index)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., in) -> (..., out)."""
        low = F.linear(F.linear(features, self.lora_a), self.lora_b)  # (..., r) -> (..., out)
        adapted: Tensor = self.base(features) + self.scale * low
        beta = self._beta(self.active.index)
        return adapted if beta is None else adapted + beta

    @torch.no_grad()
    def merge(self, index: int) -> nn.Linear:
        """Make the plain layer of one configuration: update and beta folded into weight and bias.

        Raises:
            FamilyError: there is no such configuration.
        """
        beta = self._beta(self._checked(index))
        out_features, in_features = self.base.weight.shape
        biased = self.base.bias is not None or beta is not None
        like = {"device": self.base.weight.device, "dtype": self.base.weight.dtype}
        plain = nn.Linear(in_features, out_features, bias=biased, **like)
        plain.weight.copy_(self.base.weight + self.scale * self.lora_b @ self.lora_a)
        if biased:
            zero = self.base.weight.new_zeros(())
            plain.bias.copy_(
                (zero if self.base.bias is None else self.base.bias)
                + (zero if beta is None else beta)
            )
        return plain.train(self.training)

    def learned_parameters(self) -> Iterator[nn.Parameter]:
        """What starts at zero: B, and the biases of all configurations."""
        yield self.lora_b
        yield from self.stitch_bias.values()

    def num_params(self, index: int) -> int:
        """Number of parameters of the plain layer of one configuration."""
        biased = self.base.bias is not None or self._beta(index) is not None
        return self.base.weight.numel() + biased * len(self.base.weight)

    def fold(self, index: int) -> nn.Module:
        """Same as :meth:`merge`."""
        return self.merge(index)

    def extra_repr(self) -> str:
        """Rank, scale and number of biases."""
        return f"rank={len(self.lora_a)}, scale={self.scale:g}, biases={len(self.stitch_bias)}"

    def _beta(self, index: int) -> Tensor | None:
        key = str(index)
        return self.stitch_bias.get(key)

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.num_stitches:
            raise FamilyError(
                f"There is no configuration {index}; choose among 0 to {self.num_stitches - 1}."
            )
        return index
