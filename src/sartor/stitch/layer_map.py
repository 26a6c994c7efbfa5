"""What a network is deepened to: how many layers, in which order, with what of their own.

Source: see ``scalenet``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from sartor.core.errors import RecipeError

__all__ = ["ScaleNetConfig", "layer_map"]


@dataclass(frozen=True, kw_only=True)
class ScaleNetConfig:
    """How a model becomes deeper.

    Attributes:
        num_layers: blocks afterwards, at least as many as before; ``None`` for twice as many, or as
            many as the mapping names.
        mapping: which block's weights each layer has: ``cyclic`` (0, 1, 2, 0, 1, 2), ``block`` (0,
            0, 1, 1, 2, 2) or the numbers of the blocks themselves, from 0.
        adapter: what each layer gets of its own: ``parallel``, ``lora`` or ``None``.
        rank: of the adapters, at least 1; a 24th to a 6th of the width is usual.
        scale: factor of what the adapters add.
        private_norm: whether layers that repeat a block have norms of their own.
        drop_path: stochastic depth of the last layer, in [0, 1), rising linearly from 0 at the
            first; ``None`` leaves each layer the rate of its block.
        blocks: dotted name of the list of blocks; empty for ``blocks``, ``model.layers`` or the
            third stage of a Swin, ``layers.2.blocks``.
        seed: of the adapters' random weights.
    """

    num_layers: int | None = None
    mapping: str | tuple[int, ...] = "cyclic"
    adapter: str | None = "parallel"
    rank: int = 16
    scale: float = 1.0
    private_norm: bool = False
    drop_path: float | None = None
    blocks: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.mapping, str):
            object.__setattr__(self, "mapping", tuple(self.mapping))
        if self.adapter not in ("parallel", "lora", None):
            raise RecipeError(
                f"The adapter of a layer is 'parallel', 'lora' or None, got {self.adapter!r}."
            )
        if self.rank < 1:
            raise RecipeError(
                f"The rank of an adapter must be at least 1, got {self.rank}; for none at all "
                "give adapter=None."
            )
        if self.drop_path is not None and not 0 <= self.drop_path < 1:
            raise RecipeError(
                f"The stochastic depth drop_path must lie in [0, 1), got {self.drop_path}."
            )


def layer_map(depth: int, num_layers: int, mapping: str | Sequence[int] = "cyclic") -> list[int]:
    """Which of ``depth`` blocks each of ``num_layers`` layers takes its weights from.

    Args:
        depth: number of blocks, at least 1.
        num_layers: number of layers, at least ``depth``.
        mapping: ``cyclic``: l modulo depth; ``block``: floor(l * depth / num_layers); or a number
            in [0, depth) for each layer.

    Raises:
        RecipeError: there would be fewer layers than blocks, or the mapping is not one of these.

    Warns:
        UserWarning: the mapping leaves a block out.

    Example:
        >>> layer_map(4, 6), layer_map(4, 6, "block")
        ([0, 1, 2, 3, 0, 1], [0, 0, 1, 2, 2, 3])
    """
    if num_layers < depth:
        raise RecipeError(
            f"The model has {depth} blocks and {num_layers} layers were asked for; give at least "
            f"{depth}, as ScaleNet only deepens."
        )
    if mapping == "cyclic":
        return [layer % depth for layer in range(num_layers)]
    if mapping == "block":
        return [layer * depth // num_layers for layer in range(num_layers)]
    if isinstance(mapping, str):
        raise RecipeError(
            f"The mapping is 'cyclic', 'block' or a block for each layer, got {mapping!r}."
        )
    if len(mapping) != num_layers:
        raise RecipeError(
            f"The mapping names {len(mapping)} blocks for {num_layers} layers; name one for each."
        )
    wrong = [entry for entry in mapping if type(entry) is not int or not 0 <= entry < depth]
    if wrong:
        raise RecipeError(
            f"The mapping takes block {wrong[0]!r} of {depth}; give numbers from 0 to {depth - 1}."
        )
    dropped = sorted(set(range(depth)) - set(mapping))
    if dropped:
        warnings.warn(
            f"The mapping leaves out the blocks {', '.join(map(str, dropped))}, whose weights are "
            "lost; name every block at least once to keep what the model has learned.",
            stacklevel=2,
        )
    return list(mapping)
