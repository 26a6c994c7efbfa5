"""Sizes of HVT: what a configuration costs, and the one nearest to a cost.

Source: Pan et al., ICCV 2021, arXiv 2103.10619, sections 3.3 and 4: what pooling saves is spent on
width, depth, patches or resolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from sartor.core.errors import FamilyError, nearest
from sartor.nn.hvt.token_pool import pooled_length

__all__ = ["AXES", "HVTSize", "scale_to"]

#: what can be scaled
AXES = ("width", "depth", "patch", "resolution")


@dataclass(frozen=True, kw_only=True)
class HVTSize:
    """One size of HVT.

    Attributes:
        img_size: side of the images, a multiple of ``patch_size``.
        patch_size: side of a patch.
        embed_dim: channels, a multiple of ``num_heads``.
        depth: blocks.
        num_heads: attention heads a block.
        pool_every: tokens are pooled after block 0 and each further ``pool_every`` blocks; ``None``
            for no pooling.
        pool_kernel: tokens a window.
        pool_stride: tokens from one window to the next.
    """

    img_size: int = 224
    patch_size: int = 16
    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    pool_every: int | None = None
    pool_kernel: int = 3
    pool_stride: int = 2

    def __post_init__(self) -> None:
        numbers = [v for v in asdict(self).values() if v is not None]
        if min(numbers) < 1:
            raise FamilyError(f"The numbers of an HVT must be at least 1, got {min(numbers)}.")
        for name, of in (("img_size", "patch_size"), ("embed_dim", "num_heads")):
            value, unit = getattr(self, name), getattr(self, of)
            if value % unit:
                raise FamilyError(
                    f"The {name} of an HVT must be a multiple of its {of}, got {value} and {unit}."
                )
        _ = self.lengths

    @property
    def pools(self) -> tuple[int, ...]:
        """Blocks after which tokens are pooled, from 0."""
        return tuple(range(0, self.depth, self.pool_every)) if self.pool_every else ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in each stage: before the first pool, between pools, after the last.

        Raises:
            FamilyError: a pool has too few tokens left.
        """
        lengths = [(self.img_size // self.patch_size) ** 2]
        for block in self.pools:
            if lengths[-1] < self.pool_kernel:
                raise FamilyError(
                    f"The pool after block {block} gets {lengths[-1]} tokens and has a kernel of "
                    f"{self.pool_kernel}; take a larger pool_every or larger images."
                )
            lengths.append(pooled_length(lengths[-1], self.pool_kernel, self.pool_stride))
        return tuple(lengths)

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Blocks in each stage."""
        edges = [0, *(block + 1 for block in self.pools), self.depth]
        return tuple(end - begin for begin, end in itertools.pairwise(edges))

    def macs(self, *, in_chans: int = 3, num_classes: int = 1000) -> int:
        """Multiply-adds of one image: linear layers, convolution and products of attention.

        Example:
            >>> HVTSize(pool_every=12).macs()
            2402020608
        """
        d, first = self.embed_dim, self.lengths[0]
        blocks = sum(
            depth * (12 * n * d**2 + 2 * n**2 * d)
            for n, depth in zip(self.lengths, self.stage_depths, strict=True)
        )
        return first * d * in_chans * self.patch_size**2 + blocks + d * num_classes

    def to_dict(self) -> dict[str, Any]:
        """Arguments of :class:`sartor.nn.hvt.backbone.HVT`."""
        return asdict(self)


def scale_to(size: HVTSize, target_macs: float, *, axis: str = "width") -> HVTSize:
    """Spend a budget on one axis: the size whose cost is nearest.

    Args:
        size: what is scaled.
        target_macs: multiply-adds of one image, above 0.
        axis: ``width`` (more heads of the same channels), ``depth``, ``patch`` (smaller or larger
            patches) or ``resolution`` (of the images).

    Raises:
        FamilyError: there is no such axis, or the budget is not above 0.

    Example:
        >>> scale_to(HVTSize(pool_every=3), 4.57e9, axis="width").embed_dim
        704
    """
    if axis not in AXES:
        raise FamilyError(f"HVT has no axis {axis!r}; {nearest(axis, AXES)}")
    if not target_macs > 0:
        raise FamilyError(f"The budget must be above 0 multiply-adds, got {target_macs}.")
    legal = [made for made in _candidates(size, axis) if made is not None]
    return min(legal, key=lambda made: abs(made.macs() - target_macs))


def _candidates(size: HVTSize, axis: str) -> Iterable[HVTSize | None]:
    """Sizes along an axis; ``None`` for one that cannot be, as when tokens run out."""
    head = size.embed_dim // size.num_heads
    makers: dict[str, Iterable[Callable[[], HVTSize]]] = {
        "width": (_maker(size, num_heads=n, embed_dim=head * n) for n in range(1, 129)),
        "depth": (_maker(size, depth=n) for n in range(1, 129)),
        "patch": (
            _maker(size, patch_size=p)
            for p in range(1, size.img_size + 1)
            if size.img_size % p == 0
        ),
        "resolution": (_maker(size, img_size=size.patch_size * n) for n in range(1, 65)),
    }
    for make in makers[axis]:
        try:
            yield make()
        except FamilyError:
            yield None


def _maker(size: HVTSize, **changed: int) -> Callable[[], HVTSize]:
    return lambda: replace(size, **changed)
