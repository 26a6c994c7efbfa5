"""Settings of Mesa, and the bytes that it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sartor.core.errors import RecipeError, nearest

__all__ = ["KINDS", "MesaReport", "MesaSettings"]

#: kinds of operations that save tensors for the backward pass
KINDS = (
    *("linear", "conv", "matmul", "attention", "softmax", "gelu", "relu"),
    *("layer_norm", "batch_norm", "singular", "loss", "custom", "other"),
)


@dataclass(frozen=True, kw_only=True)
class MesaSettings:
    """What is stored in few bits, and how.

    Attributes:
        bits: 2, 4 or 8 of each stored value.
        groups: values that share a range: ``heads`` (one range for each attention head, channels in
            as many runs), ``tensor`` (one range), or a number of runs of channels.
        num_heads: for models that do not tell; ``None`` reads ``num_heads`` or
            ``num_attention_heads`` of the attention in the same block.
        stochastic: round up or down at random, so that the stored value is right on average; else
            to nearest.
        momentum: of the running ranges, in [0, 1); ``None`` takes each batch's own range, which
            then clips nothing.
        min_numel: smaller tensors are kept as they are.
        keep: kinds of operations whose tensors are kept as they are, of :data:`KINDS`; those of
            losses, and of operations such as logarithms and divisions, always are. ``custom``
            are autograd functions from outside torch, and the inputs of checkpointed blocks.
        exclude: patterns of module names, such as ``head*``; what such a module and its children
            save is kept as it is.
        synchronize: take ranges over all processes, at the price of a small all-reduce for each
            stored tensor. Then several processes have the ranges that one has with the joined
            batch.
        seed: of the rounding; dropout and other draws are not touched.

    Example:
        >>> MesaSettings(bits=4, keep=("softmax",)).groups
        'heads'
    """

    bits: int = 8
    groups: str | int = "heads"
    num_heads: int | None = None
    stochastic: bool = True
    momentum: float | None = 0.9
    min_numel: int = 4096
    keep: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    synchronize: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8):
            raise RecipeError(f"Mesa stores 2, 4 or 8 bits a value, got bits={self.bits!r}.")
        number = isinstance(self.groups, int) and not isinstance(self.groups, bool)
        if self.groups not in ("heads", "tensor") and not (number and int(self.groups) > 0):
            raise RecipeError(
                "Mesa's groups are 'heads', 'tensor' or a number of runs of channels, at least 1, "
                f"got {self.groups!r}."
            )
        if self.num_heads is not None and self.num_heads < 1:
            raise RecipeError(f"Mesa's num_heads must be at least 1, got {self.num_heads}.")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise RecipeError(
                "Mesa's momentum must be at least 0 and below 1, or None for each batch's own "
                f"range, got {self.momentum}."
            )
        if self.min_numel < 0:
            raise RecipeError(f"Mesa's min_numel must be at least 0, got {self.min_numel}.")
        for name in ("keep", "exclude"):
            if isinstance(getattr(self, name), str):
                raise RecipeError(
                    f"Mesa's {name} is a tuple of names, got the text {getattr(self, name)!r}; "
                    "write a comma behind it, in brackets."
                )
        for kind in self.keep:
            if kind not in KINDS:
                raise RecipeError(f"Mesa knows no operations {kind!r}; {nearest(kind, KINDS)}")


@dataclass(frozen=True, kw_only=True)
class MesaReport:
    """Bytes that one training forward keeps for its backward pass; weights are not counted.

    Attributes:
        exact_bytes: what autograd alone would keep, every storage once.
        stored_bytes: what is kept instead: codes, ranges, and tensors that stay as they are.
        kinds: kind of operation -> (exact, stored) bytes; a storage counts where it is seen first.
    """

    exact_bytes: int
    stored_bytes: int
    kinds: Mapping[str, tuple[int, int]]

    @property
    def ratio(self) -> float:
        """How many times less is kept."""
        return self.exact_bytes / self.stored_bytes if self.stored_bytes else 1.0
