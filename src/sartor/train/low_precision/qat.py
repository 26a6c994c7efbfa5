"""Weights of few bits with a learned step: train as if quantised, then keep the quantised weights.

Source: Esser et al., Learned Step Size Quantization, ICLR 2020, arXiv 1902.08153, equations 1 to 5;
    no deviation. torchao's ``QATConfig`` prepares int8 and int4 with steps that follow the largest
weight; here the step is a parameter, of 2 to 8 bits.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sartor.core.errors import NoEffectError, RecipeError
from sartor.train.low_precision.prepare import HEADS

__all__ = ["LearnedStep", "bake_steps_", "learn_steps_"]


class LearnedStep(nn.Module):
    """Rounds weights to multiples of a step that trains with them.

    Args:
        weight: what the step begins from: 2 * mean magnitude / sqrt(largest integer).
        bits: 2 to 8.

    Raises:
        RecipeError: ``bits`` is out of range.
    """

    def __init__(self, weight: Tensor, bits: int = 4) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise RecipeError(f"A learned step has 2 to 8 bits, got {bits}.")
        self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        begin = 2 * weight.detach().abs().mean() / self.high**0.5
        self.step = nn.Parameter(begin.clamp(min=torch.finfo(begin.dtype).tiny))

    def forward(self, weight: Tensor) -> Tensor:
        """Weights (...) rounded; backward: through, inside the range, and to the step."""
        factor = (weight.numel() * self.high) ** -0.5
        step = self.step * factor + (self.step - self.step * factor).detach()  # scales the gradient
        scaled = (weight / step).clamp(self.low, self.high)
        return (scaled + (scaled.round() - scaled).detach()) * step


def learn_steps_(
    model: nn.Module,
    bits: int = 4,
    *,
    targets: str | Sequence[str] = "*",
    ignore: Sequence[str] = HEADS,
) -> tuple[str, ...]:
    """Give the weights of linear and convolution layers a learned step, in place.

    Build the optimiser afterwards: each step is a parameter.

    Args:
        model: changed in place.
        bits: 2 to 8.
        targets: globs of paths; only these are changed.
        ignore: globs of paths that are not.

    Returns:
        The paths that were changed.

    Raises:
        RecipeError: ``bits`` is out of range.
        NoEffectError: no layer was changed.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4))
        >>> learn_steps_(model, 2)
        ('0',)
        >>> bake_steps_(model)
        ('0',)
        >>> len(model[0].weight.unique()) <= 4
        True
    """
    globs = [targets] if isinstance(targets, str) else list(targets)
    paths = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
        and any(fnmatch.fnmatchcase(path, glob) for glob in globs)
        and not any(fnmatch.fnmatchcase(path, glob) for glob in ignore)
        and not parametrize.is_parametrized(module, "weight")
    ]
    if not paths:
        raise NoEffectError(
            f"No linear or convolution layer matches {globs}; give other targets, or ignore=()."
        )
    for path in paths:
        module = model.get_submodule(path)
        weight: Tensor = module.weight  # type: ignore[assignment]
        parametrize.register_parametrization(module, "weight", LearnedStep(weight, bits))
    return tuple(paths)


def bake_steps_(model: nn.Module) -> tuple[str, ...]:
    """Keep the quantised weights as plain ones, in place, and forget the steps.

    Returns:
        The paths that were changed.

    Raises:
        NoEffectError: no weight has a learned step.
    """
    paths = [
        path
        for path, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight")
        and isinstance(module.parametrizations["weight"][0], LearnedStep)  # type: ignore[index]
    ]
    if not paths:
        raise NoEffectError("No weight has a learned step; call learn_steps_(model) first.")
    for path in paths:
        parametrize.remove_parametrizations(model.get_submodule(path), "weight")
    return tuple(paths)
