"""Quantise tensors: elements of a format, with scales for the tensor, for rows, for blocks.

Source: see :mod:`sartor.train.low_precision.formats`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sartor.core.errors import DataError, RecipeError
from sartor.train.low_precision.formats import Format, find_format, round_to

__all__ = ["QTensor", "Quantizer", "quantize"]

Block = int | tuple[int, int] | str | None
MX_BLOCK, SCALE_BITS = 32, {"e8m0": 8, "e4m3": 8, "fp32": 32}


@dataclass(frozen=True)
class QTensor:
    """A tensor as elements and scales.

    Attributes:
        elements: in units of their scale, in groups: (..., groups, elements of a group).
        scale: (..., groups, 1), or a scalar tensor.
        format: of the elements.
        shape: of the tensor.
        bits: that elements and scales would take, packed.
    """

    elements: Tensor
    scale: Tensor
    format: Format
    shape: torch.Size
    bits: float
    tile: tuple[int, int] | None = None

    def dequantize(self) -> Tensor:
        """The tensor that this stands for, float32."""
        values = self.elements * self.scale
        return _untile(values, self.shape, self.tile) if self.tile else values.reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """How one operand is quantised; always along the last dimension.

    Attributes:
        format: name of the element's format.
        block: what shares a scale: ``None`` the tensor, ``"row"`` a row, a number of neighbours in
            a row, or a tile (rows, columns).
        scale: ``fp32``, ``e8m0`` (a power of two, as MX has it), ``e4m3`` (as NVFP4 has it); empty
            takes ``e8m0`` for floats in blocks of 32 and ``fp32`` elsewhere.
        rounding: ``nearest`` or ``stochastic``.

    Raises:
        RecipeError: an entry is unknown, or entries exclude one another.
    """

    format: str = "int8"
    block: Block = None
    scale: str = ""
    rounding: str = "nearest"

    def __post_init__(self) -> None:
        form = find_format(self.format)
        if self.rounding not in ("nearest", "stochastic"):
            raise RecipeError(
                f"Rounding is nearest or stochastic, got {self.rounding!r}; take one of them."
            )
        sizes = self.block if isinstance(self.block, tuple) else (self.block,)
        if any(not (size is None or size == "row" or _positive(size)) for size in sizes):
            raise RecipeError(
                "A block is None, 'row', a number of at least 1 or a tile of two such numbers, got "
                f"{self.block!r}."
            )
        if self.scale not in ("", *SCALE_BITS):
            raise RecipeError(f"A scale is fp32, e8m0 or e4m3, got {self.scale!r}.")
        if self.scale == "e8m0" and not form.is_float:
            raise RecipeError(f"A scale e8m0 belongs to float elements, not to {form.name}.")

    @property
    def scale_format(self) -> str:
        """What the scale is held in."""
        if self.scale:
            return self.scale
        return "e8m0" if self.block == MX_BLOCK and find_format(self.format).is_float else "fp32"

    def quantize(self, values: Tensor, generator: torch.Generator | None = None) -> QTensor:
        """Quantise ``values`` (..., K).

        Raises:
            DataError: K is not a multiple of the block, or a value is not finite.
        """
        form = find_format(self.format)
        groups, tile = _grouped(values.detach().float(), self.block)
        scale = self._scales(groups, form)
        elements = round_to(
            groups / scale, form, stochastic=self.rounding == "stochastic", generator=generator
        )
        bits = form.bits * values.numel() + SCALE_BITS[self.scale_format] * scale.numel()
        return QTensor(elements, scale, form, values.shape, bits, tile)

    def __call__(self, values: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Quantise and dequantise: float32 of the same shape."""
        return self.quantize(values, generator).dequantize()

    def _scales(self, groups: Tensor, form: Format) -> Tensor:
        """One for each group, (..., groups, 1); 1 where all values are 0."""
        magnitude = groups.abs()
        if form.scaling == "mean":
            found = magnitude.mean(-1, keepdim=True)
        else:
            found = magnitude.amax(-1, keepdim=True)
        if not bool(found.isfinite().all()):
            raise DataError(
                "A tensor to be quantised has values that are not finite; lower the learning rate "
                "or look for bad inputs."
            )
        if self.scale_format == "e8m0":
            exponent = torch.frexp(found).exponent - 1 - form.max_exponent
            scale = exponent.clamp(-126, 127).float().exp2()
        elif self.scale_format == "e4m3":
            scale = _e4m3_scales(found / form.largest)
        else:
            scale = found / form.largest
        return torch.where((found == 0) | (scale == 0), torch.ones_like(scale), scale)


def _e4m3_scales(scale: Tensor) -> Tensor:
    """Scales rounded to E4M3, with one float32 factor for the tensor, so that the largest is
    448.
    """
    form = find_format("e4m3")
    factor = scale.amax() / form.largest
    return round_to(scale / factor, form) * factor if factor > 0 else scale


def quantize(
    values: Tensor,
    format: str,
    block: Block = None,
    *,
    scale: str = "",
    rounding: str = "nearest",
    generator: torch.Generator | None = None,
) -> QTensor:
    """Quantise a tensor (..., K); see :class:`Quantizer` for the arguments.

    Example:
        >>> kept = quantize(torch.tensor([1.0, -0.6, 0.26, 0.0]), "int4")
        >>> [round(v, 3) for v in kept.dequantize().tolist()]
        [1.0, -0.571, 0.286, 0.0]
    """
    how = Quantizer(format=format, block=block, scale=scale, rounding=rounding)
    return how.quantize(values, generator)


def _positive(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size >= 1


def _grouped(values: Tensor, block: Block) -> tuple[Tensor, tuple[int, int] | None]:
    """Values that share a scale side by side: (..., groups, elements)."""
    if not values.numel():
        raise DataError("An empty tensor cannot be quantised; give at least one value.")
    if block is None:
        return values.reshape(1, -1), None
    if block == "row":
        return values.unsqueeze(-2) if values.dim() < 2 else values, None
    if isinstance(block, tuple):
        return _tiled(values, block), block
    columns = values.shape[-1]
    assert isinstance(block, int)
    if columns % block:
        raise DataError(
            f"Rows of {columns} values do not divide into blocks of {block}; take a layer whose "
            f"features are a multiple of {block}, or one scale for each row."
        )
    return values.unflatten(-1, (columns // block, block)), None


def _tiled(values: Tensor, tile: tuple[int, int]) -> Tensor:
    """(R, C) to (tiles, elements); short tiles at the edges are filled up with zeros."""
    height, width = tile
    rows, columns = values.shape
    filled = torch.nn.functional.pad(values, (0, -columns % width, 0, -rows % height))
    high, wide = filled.shape[0] // height, filled.shape[1] // width
    return filled.reshape(high, height, wide, width).transpose(1, 2).reshape(high * wide, -1)


def _untile(values: Tensor, shape: torch.Size, tile: tuple[int, int]) -> Tensor:
    height, width = tile
    rows, columns = shape
    high, wide = math.ceil(rows / height), math.ceil(columns / width)
    whole = values.reshape(high, wide, height, width).transpose(1, 2)
    return whole.reshape(high * height, wide * width)[:rows, :columns]
