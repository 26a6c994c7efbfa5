"""Train with few bits: named recipes for the linear layers of any model, native where the hardware
and torchao have them, emulated elsewhere.

An emulation shows what a recipe costs in quality before hardware is bought; it is slower than
float32. What runs faster on which hardware is in
:data:`sartor.train.RECIPES`.

Source: Hao et al., Low-Precision Training of Large Language Models: Methods, Challenges, and
    Opportunities, 2025, arXiv 2505.01043, a survey without code. Deviation: every recipe keeps
    embeddings, norms, the head and
the loss in high precision, as the survey advises, so that layers called head or classifier are left
out.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sartor.core.errors import NoEffectError, RecipeError, TargetError
from sartor.core.packages import require
from sartor.train.low_precision.linear import LowPrecisionLinear
from sartor.train.low_precision.recipes import PrecisionRecipe, low_precision_recipe

__all__ = ["HEADS", "PrecisionReport", "prepare_low_precision_"]

HEADS = ("*head", "*head.*", "*classifier", "*classifier.*")


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """What :func:`prepare_low_precision_` did.

    Attributes:
        recipe: its name.
        backend: ``native`` or ``emulated``.
        layers: paths of the layers that were changed.
        skipped: path -> reason.
    """

    recipe: str
    backend: str
    layers: tuple[str, ...]
    skipped: dict[str, str]


def prepare_low_precision_(
    model: nn.Module,
    recipe: str | PrecisionRecipe,
    *,
    targets: str | Sequence[str] = "*",
    ignore: Sequence[str] = HEADS,
    emulate: bool | str = "auto",
    on_mismatch: str = "error",
    seed: int = 0,
) -> PrecisionReport:
    """Give linear layers the products of a recipe, in place; weights and their names stay.

    Args:
        model: its ``nn.Linear`` are changed; a weight that is shared stays shared.
        recipe: a name in :data:`RECIPES`, or your own.
        targets: globs of paths; only these are changed.
        ignore: globs of paths that are not.
        emulate: ``True``, ``False`` (native or an error), or ``auto``: native where it can.
        on_mismatch: what happens to a layer whose features do not divide into blocks: ``error`` or
            ``skip``.
        seed: of random rounding; every layer draws for itself.

    Raises:
        RecipeError: an argument is unknown, or a layer does not fit.
        TargetError: native was asked for and cannot be had here.
        NoEffectError: no layer was changed.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
        >>> prepare_low_precision_(model, "mxfp8").layers
        ('0', '2')
    """
    chosen = low_precision_recipe(recipe) if isinstance(recipe, str) else recipe
    if emulate not in (True, False, "auto") or on_mismatch not in ("error", "skip"):
        raise RecipeError(
            "emulate is True, False or 'auto' and on_mismatch 'error' or 'skip', got "
            f"{emulate!r} and {on_mismatch!r}."
        )
    reason = _not_native(chosen, model)
    if emulate is False and reason:
        raise TargetError(f"{chosen.name} cannot run natively: {reason}; take emulate=True.")
    globs = [targets] if isinstance(targets, str) else list(targets)
    layers, skipped = _sorted_out(model, chosen, globs, ignore, on_mismatch)
    if not layers:
        raise NoEffectError(
            f"No linear layer was changed by {chosen.name}: {skipped or 'none matches'}; give "
            "other "
            "targets, or ignore=()."
        )
    native = emulate is not True and not reason
    if native:
        _convert_natively(model, chosen, set(layers))
    else:
        for number, path in enumerate(layers):
            parent, _, name = path.rpartition(".")
            made = LowPrecisionLinear.from_linear(
                model.get_submodule(path),  # type: ignore[arg-type]
                chosen.precision,
                seed=(seed << 16) + number,
            )
            setattr(model.get_submodule(parent), name, made.to(made.weight.device))
    backend = "native" if native else "emulated"
    return PrecisionReport(
        recipe=chosen.name, backend=backend, layers=tuple(layers), skipped=skipped
    )


def _sorted_out(
    model: nn.Module,
    recipe: PrecisionRecipe,
    targets: Sequence[str],
    ignore: Sequence[str],
    on_mismatch: str,
) -> tuple[list[str], dict[str, str]]:
    layers, skipped = [], {}
    for path, module in model.named_modules():
        if type(module) is not nn.Linear or not path or not _any(path, targets):
            continue
        sizes = (module.in_features, module.out_features)
        if _any(path, ignore):
            skipped[path] = "kept in high precision (ignore)"
        elif any(size % recipe.multiple for size in sizes):
            skipped[path] = f"{sizes[0]} -> {sizes[1]} are no multiples of {recipe.multiple}"
            if on_mismatch == "error":
                raise RecipeError(
                    f"{recipe.name} takes layers whose features are multiples of "
                    f"{recipe.multiple}, and {path} maps {sizes[0]} to {sizes[1]}; name it in "
                    "ignore, or give on_mismatch='skip'."
                )
        else:
            layers.append(path)
    return layers, skipped


def _any(path: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, glob) for glob in globs)


def _not_native(recipe: PrecisionRecipe, model: nn.Module) -> str:
    """Why a recipe must be emulated; empty if it need not be."""
    if not recipe.native:
        return "this library calls no kernel that has it"
    need = ".".join(map(str, recipe.capability))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type != "cuda":
        return f"the model is on {device.type}, and it needs a GPU of compute capability {need}"
    have = torch.cuda.get_device_capability(device)
    if have < recipe.capability:
        return f"the GPU has compute capability {have[0]}.{have[1]}, and it needs {need}"
    return ""


def _convert_natively(model: nn.Module, recipe: PrecisionRecipe, layers: set[str]) -> None:
    """Hand the layers to torchao."""

    def is_chosen(module: nn.Module, path: str) -> bool:
        return path in layers

    if recipe.name == "int8":
        training = require("torchao.prototype.quantized_training")
        quantize_: Callable[..., Any] = require("torchao.quantization").quantize_
        quantize_(model, training.int8_mixed_precision_training(), filter_fn=is_chosen)
        return
    float8 = require("torchao.float8")
    name = {"fp8_tensor": "tensorwise", "fp8_rowwise": "rowwise"}[recipe.name]
    config = float8.Float8LinearConfig.from_recipe_name(name)
    float8.convert_to_float8_training(model, config=config, module_filter_fn=is_chosen)
