"""Number formats of few bits, and quantising to them with one scale for a tensor, a row, a block.

Values are rounded to what the format holds and kept as torch holds them, so that any format can be
tried on any machine; nothing runs faster by that.

Source: the map of formats of Hao et al., Low-Precision Training of Large Language Models, 2025,
    arXiv 2505.01043. Float elements and the shared power-of-two scale are those of the OCP
Microscaling specification 1.0; NVFP4 scales blocks of 16 by E4M3 numbers; NF4 is that of Dettmers
et al., 2023, arXiv 2305.14314; ternary of Ma et al., 2024, arXiv 2402.17764. Deviation: a float
that is too large becomes the largest one, in every format.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sartor.core.errors import RecipeError, nearest

__all__ = ["FORMATS", "Format", "find_format", "round_to"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """What one element can be.

    Attributes:
        name: as users write it.
        bits: of an element.
        largest: of its magnitudes, in units of the scale.
        mantissa: bits after the point of a float; -1 for a format that is not a float.
        min_exponent: of its smallest normal float.
        scaling: what the scale is: ``amax`` over ``largest``, or the ``mean`` magnitude.
    """

    name: str
    bits: float
    largest: float
    mantissa: int = -1
    min_exponent: int = 0
    scaling: str = "amax"

    @property
    def is_float(self) -> bool:
        """Whether its steps grow with the magnitude by powers of two."""
        return self.mantissa >= 0

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest float."""
        return math.frexp(self.largest)[1] - 1


def _float(name: str, bits: int, mantissa: int, bias: int, largest: float) -> Format:
    return Format(name=name, bits=bits, largest=largest, mantissa=mantissa, min_exponent=1 - bias)


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        _float("e4m3", 8, 3, 7, 448.0),
        _float("e5m2", 8, 2, 15, 57344.0),
        _float("e3m2", 6, 2, 3, 28.0),
        _float("e2m3", 6, 3, 1, 7.5),
        _float("e2m1", 4, 1, 1, 6.0),
        *(
            Format(name=f"int{bits}", bits=bits, largest=float(2 ** (bits - 1) - 1))
            for bits in range(8, 1, -1)
        ),
        Format(name="nf4", bits=4, largest=1.0),
        Format(name="ternary", bits=math.log2(3), largest=1.0, scaling="mean"),
        Format(name="binary", bits=1, largest=1.0, scaling="mean"),
    )
}


def find_format(name: str) -> Format:
    """Return a format.

    Raises:
        RecipeError: there is none of that name.

    Example:
        >>> find_format("e2m1").largest, find_format("int4").largest
        (6.0, 7.0)
    """
    if name not in FORMATS:
        raise RecipeError(f"There is no number format {name!r}; {nearest(name, FORMATS)}")
    return FORMATS[name]


def round_to(
    values: Tensor,
    form: Format,
    *,
    stochastic: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Round to numbers of a format, with scale 1.

    Args:
        values: any shape, float32.
        form: see :data:`FORMATS`.
        stochastic: round up with the probability of what is cut off, so that the mean is kept;
            else to the nearest, ties to even.
        generator: of the stochastic choice.

    Returns:
        float32 of the same shape; magnitudes above the largest become the largest.

    Raises:
        RecipeError: stochastic rounding to ``nf4`` or ``binary``, which have no even steps.

    Example:
        >>> round_to(torch.tensor([0.1, -0.3, 17.0, 449.0]), FORMATS["e4m3"]).tolist()
        [0.1015625, -0.3125, 16.0, 448.0]
    """
    if form.name in ("nf4", "binary"):
        if stochastic:
            raise RecipeError(f"{form.name} has no stochastic rounding; take int4 or e2m1.")
        return _nearest_of_table(values) if form.name == "nf4" else _signs(values)
    clipped = values.clamp(-form.largest, form.largest)
    whole = _uniform_rounding(stochastic, generator)
    if not form.is_float:
        return whole(clipped)
    # frexp gives magnitudes in [0.5, 1): the exponent of 1.xxx is one less
    exponent = torch.frexp(clipped).exponent - 1
    step = (exponent.clamp(min=form.min_exponent) - form.mantissa).float().exp2()
    return whole(clipped / step) * step


def _uniform_rounding(
    stochastic: bool, generator: torch.Generator | None
) -> Callable[[Tensor], Tensor]:
    if not stochastic:
        return torch.round

    def rounded(values: Tensor) -> Tensor:
        noise = torch.empty_like(values).uniform_(generator=generator)
        return (values + noise).floor()

    return rounded


def _signs(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values)


@functools.cache
def _normal_quantiles() -> Tensor:
    """The 16 values of NF4: quantiles of a normal distribution, 0 among them, scaled to 1."""
    offset = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))
    positive = torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1]
    negative = torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1]
    right, left = torch.special.ndtri(positive), -torch.special.ndtri(negative)
    table = torch.cat([left, torch.zeros(1, dtype=torch.float64), right]).sort().values
    return (table / table.max()).float()


def _nearest_of_table(values: Tensor) -> Tensor:
    table = _normal_quantiles().to(values)
    between = (table[1:] + table[:-1]) / 2
    return table[torch.bucketize(values, between)]
