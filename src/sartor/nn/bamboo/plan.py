"""Depth against width of a plain vision transformer at one budget, with exact counts.

Source: Xue, Chen, Sun, Ren, Zheng, He, Chen, Jiang, You, "A Study on Transformer Configuration and
Training Objective", ICML 2023, arXiv 2205.10505. Their rule is to keep depth x width^2. Deviation:
:func:`depth_width_tradeoff` compares whole models, patch embedding and positions included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sartor.core.errors import FamilyError

__all__ = ["ViTSize", "depth_width_tradeoff", "equal_budget"]

#: head sizes up to which widths are looked for
_MOST_HEADS = 256


@dataclass(frozen=True, kw_only=True)
class ViTSize:
    """Size of a vision transformer with a class token and learned positions.

    Attributes:
        depth: blocks L.
        embed_dim: width D, a multiple of ``num_heads``.
        num_heads: of each attention.
        patch_size: side p of a patch; it divides ``img_size``.
        img_size: side of the images.
        in_chans: channels of the images.
        mlp_ratio: hidden width of the MLP in units of D.

    Raises:
        FamilyError: a number is below 1 or does not divide what it should.

    Example:
        >>> vit_base = ViTSize(depth=12, embed_dim=768, num_heads=12)
        >>> vit_base.params, round(vit_base.macs / 1e9, 2)
        (85798656, 17.56)
    """

    depth: int
    embed_dim: int
    num_heads: int
    patch_size: int = 16
    img_size: int = 224
    in_chans: int = 3
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name in ("depth", "embed_dim", "num_heads", "patch_size", "img_size", "in_chans"):
            if getattr(self, name) < 1:
                raise FamilyError(
                    f"The {name} of a vision transformer is at least 1, got {getattr(self, name)}."
                )
        for name, of in (("embed_dim", "num_heads"), ("img_size", "patch_size")):
            value, unit = getattr(self, name), getattr(self, of)
            if value % unit:
                raise FamilyError(
                    f"The {name} of a vision transformer is a multiple of its {of}, got {value} "
                    f"and {unit}."
                )
        if self.hidden < 1:
            raise FamilyError(
                "The MLP of a vision transformer needs a mlp_ratio of at least 1 / "
                f"{self.embed_dim}"
                f", got {self.mlp_ratio}."
            )

    @property
    def patches(self) -> int:
        """Patches N of an image."""
        return (self.img_size // self.patch_size) ** 2

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return int(self.mlp_ratio * self.embed_dim)

    @property
    def params(self) -> int:
        """Parameters without the classifier: patches, class token, positions, blocks, last norm."""
        d, h = self.embed_dim, self.hidden
        patch = self.in_chans * self.patch_size**2 * d + d
        block = 4 * d**2 + 4 * d + 2 * d * h + h + d + 4 * d  # attention, MLP, two norms
        return patch + d + (self.patches + 1) * d + self.depth * block + 2 * d

    @property
    def macs(self) -> int:
        """Multiply-adds of one image without the classifier."""
        d, tokens = self.embed_dim, self.patches + 1
        block = tokens * (4 * d**2 + 2 * d * self.hidden) + 2 * tokens**2 * d
        return self.depth * block + self.patches * self.in_chans * self.patch_size**2 * d

    def kwargs(self) -> dict[str, Any]:
        """Arguments of timm's ``VisionTransformer``."""
        return dict(vars(self))


def equal_budget(size: ViTSize, *, depth: int, head_dim: int = 64) -> ViTSize:
    """Another depth at about the same depth x width^2.

    Args:
        size: where the budget comes from.
        depth: at least 1.
        head_dim: of which the width is a multiple, the nearest.

    Raises:
        FamilyError: a number is below 1.

    Example:
        >>> deeper = equal_budget(ViTSize(depth=12, embed_dim=768, num_heads=12), depth=24)
        >>> deeper.embed_dim, deeper.num_heads, deeper.params
        (512, 8, 76153344)
    """
    if depth < 1 or head_dim < 1:
        raise FamilyError(f"Depth and head_dim are at least 1, got {depth} and {head_dim}.")
    heads = max(1, round(size.embed_dim * math.sqrt(size.depth / depth) / head_dim))
    return replace(size, depth=depth, embed_dim=heads * head_dim, num_heads=heads)


def depth_width_tradeoff(
    *,
    params: float | None = None,
    macs: float | None = None,
    depths: Iterable[int],
    head_dim: int = 64,
    **fixed: Any,
) -> list[ViTSize]:
    """For each depth the width whose whole model is nearest to a budget.

    Args:
        params: budget of parameters without the classifier; this or ``macs``.
        macs: budget of multiply-adds of one image.
        depths: each at least 1.
        head_dim: of which widths are multiples.
        fixed: other fields of :class:`ViTSize`.

    Returns:
        One size a depth, in the order given.

    Raises:
        FamilyError: both budgets or none are given, one is not above 0, no depth is given, or a
            number is outside its range.

    Example:
        >>> sizes = depth_width_tradeoff(params=86e6, depths=[6, 12, 24, 48])
        >>> [(size.depth, size.embed_dim) for size in sizes]
        [(6, 1088), (12, 768), (24, 512), (48, 384)]
    """
    budget = params if macs is None else macs
    if (params is None) == (macs is None) or budget is None or not 0 < budget < math.inf:
        raise FamilyError(
            f"One budget above 0 is needed, got params={params} and macs={macs}; give either."
        )
    if head_dim < 1:
        raise FamilyError(f"The head_dim is at least 1, got {head_dim}.")
    cost, chosen = "params" if macs is None else "macs", []
    for depth in depths:
        sizes = (
            ViTSize(depth=depth, embed_dim=heads * head_dim, num_heads=heads, **fixed)
            for heads in range(1, _MOST_HEADS + 1)
        )
        chosen.append(min(sizes, key=lambda size: abs(getattr(size, cost) - budget)))
    if not chosen:
        raise FamilyError("No depth was given; give some, such as depths=[6, 12, 24, 48].")
    return chosen
