"""Named recipes of low precision: what is quantised in a linear layer, and where it runs natively.

Source: Hao et al., 2025, arXiv 2505.01043. Recipes: Microscaling (OCP specification 1.0), blockwise
    FP8 of DeepSeek-V3 (arXiv 2412.19437), BitNet b1.58 (arXiv 2402.17764), int8 rows as in torchao.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sartor.core.errors import RecipeError, nearest
from sartor.train.low_precision.linear import LinearPrecision
from sartor.train.low_precision.quantize import Quantizer

__all__ = ["RECIPES", "PrecisionRecipe", "low_precision_recipe"]


@dataclass(frozen=True, kw_only=True)
class PrecisionRecipe:
    """One named way to train linear layers in few bits.

    Attributes:
        name: as users write it.
        precision: what is quantised, for the emulation.
        multiple: both feature numbers of a layer must be multiples of it.
        native: who runs it faster than float32; empty if nobody whom this library calls does.
        capability: lowest compute capability of an NVIDIA GPU for that.
    """

    name: str
    precision: LinearPrecision
    multiple: int = 1
    native: str = ""
    capability: tuple[int, int] = (0, 0)


def _same(format: str, block: Any, scale: str = "") -> LinearPrecision:
    how = Quantizer(format=format, block=block, scale=scale)
    return LinearPrecision(activation=how, weight=how, gradient=how)


def _fp8(block: Any) -> LinearPrecision:
    forward = Quantizer(format="e4m3", block=block)
    return LinearPrecision(
        activation=forward, weight=forward, gradient=Quantizer(format="e5m2", block=block)
    )


def _weights(bits: int) -> LinearPrecision:
    return LinearPrecision(weight=Quantizer(format=f"int{bits}", block="row"))


RECIPES: dict[str, PrecisionRecipe] = {
    recipe.name: recipe
    for recipe in (
        PrecisionRecipe(
            name="int8", precision=_same("int8", "row"), native="torchao", capability=(8, 0)
        ),
        PrecisionRecipe(
            name="fp8_tensor",
            precision=_fp8(None),
            multiple=16,
            native="torchao",
            capability=(8, 9),
        ),
        PrecisionRecipe(
            name="fp8_rowwise",
            precision=_fp8("row"),
            multiple=16,
            native="torchao",
            capability=(9, 0),
        ),
        PrecisionRecipe(
            name="fp8_blockwise",
            precision=LinearPrecision(
                activation=Quantizer(format="e4m3", block=128),
                weight=Quantizer(format="e4m3", block=(128, 128)),
                gradient=Quantizer(format="e4m3", block=128),
            ),
            multiple=128,
        ),
        PrecisionRecipe(name="mxfp8", precision=_same("e4m3", 32), multiple=32),
        PrecisionRecipe(name="mxfp8_e5m2", precision=_fp8(32), multiple=32),
        PrecisionRecipe(name="mxfp6", precision=_same("e2m3", 32), multiple=32),
        PrecisionRecipe(name="mxfp4", precision=_same("e2m1", 32), multiple=32),
        PrecisionRecipe(
            name="mxfp4_stochastic",
            precision=LinearPrecision(
                activation=Quantizer(format="e2m1", block=32),
                weight=Quantizer(format="e2m1", block=32),
                gradient=Quantizer(format="e2m1", block=32, rounding="stochastic"),
                hadamard=True,
            ),
            multiple=32,
        ),
        PrecisionRecipe(name="nvfp4", precision=_same("e2m1", 16, "e4m3"), multiple=16),
        PrecisionRecipe(
            name="bitnet",
            precision=LinearPrecision(
                activation=Quantizer(format="int8", block="row"), weight=Quantizer(format="ternary")
            ),
        ),
        *(
            PrecisionRecipe(name=f"qat_int{bits}", precision=_weights(bits))
            for bits in (8, 4, 3, 2)
        ),
    )
}


def low_precision_recipe(name: str) -> PrecisionRecipe:
    """Return a recipe.

    Raises:
        RecipeError: there is none of that name.

    Example:
        >>> low_precision_recipe("fp8_rowwise").capability
        (9, 0)
    """
    if name not in RECIPES:
        raise RecipeError(f"There is no low-precision recipe {name!r}; {nearest(name, RECIPES)}")
    return RECIPES[name]
