"""Cyclic precision: the bits of weights and activations rise and fall with the step.

Source: Fu et al., CPT: Efficient Deep Neural Network Training via Cyclic Precision, ICLR 2021,
    arXiv 2101.09868, equation 1; the cosine rises within each cycle. Deviation: gradients keep the
    format
that the layer has. An average of the weights of such a run (SWALP) is
``torch.optim.swa_utils.AveragedModel``.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from sartor.core.errors import ArtifactError, NoEffectError, RecipeError
from sartor.train.low_precision.linear import LowPrecisionLinear
from sartor.train.low_precision.quantize import Quantizer

__all__ = ["PrecisionSchedule", "cyclic_bits"]


def cyclic_bits(
    step: int, total_steps: int, *, low: int = 3, high: int = 8, cycles: int = 8
) -> int:
    """Bits at a step: from ``low`` to ``high`` along half a cosine, anew in every cycle.

    Args:
        step: from 0.
        total_steps: at least ``cycles``.
        low: 2 to ``high``.
        high: up to 8.
        cycles: at least 1.

    Raises:
        RecipeError: a number is out of range.

    Example:
        >>> [cyclic_bits(step, 8, cycles=1) for step in range(8)]
        [3, 3, 4, 5, 6, 6, 7, 8]
    """
    if not 2 <= low <= high <= 8 or cycles < 1 or total_steps < cycles or step < 0:
        raise RecipeError(
            "Cyclic precision takes 2 <= low <= high <= 8, cycles >= 1, total_steps >= cycles and "
            f"step >= 0, got {low}, {high}, {cycles}, {total_steps} and {step}."
        )
    length = total_steps / cycles
    passed = (step % length) / length
    return round(low + 0.5 * (high - low) * (1 - math.cos(math.pi * passed)))


class PrecisionSchedule:
    """Sets the bits of every :class:`LowPrecisionLinear` before each step, as a function of its
    number alone; an ``on_step`` callback.

    Args:
        model: its layers are found once, here.
        total_steps: of the training.
        low: fewest bits.
        high: most bits.
        cycles: rises.

    Raises:
        NoEffectError: the model has no such layer.
        RecipeError: a number is out of range.

    Example:
        >>> from sartor.train import prepare_low_precision_
        >>> model = nn.Sequential(nn.Linear(8, 8))
        >>> report = prepare_low_precision_(model, "int8")
        >>> PrecisionSchedule(model, total_steps=80)(0)
        3
    """

    def __init__(
        self, model: nn.Module, *, total_steps: int, low: int = 3, high: int = 8, cycles: int = 8
    ) -> None:
        self.settings = {"total_steps": total_steps, "low": low, "high": high, "cycles": cycles}
        self.layers = [m for m in model.modules() if isinstance(m, LowPrecisionLinear)]
        if not self.layers:
            raise NoEffectError(
                "The model has no LowPrecisionLinear whose bits could be set; call "
                "prepare_low_precision_(model, 'int8') first."
            )
        self(0)

    def __call__(self, step: int) -> int:
        """Set the bits of a step, and return them."""
        bits = cyclic_bits(step, **self.settings)
        how = Quantizer(format=f"int{bits}", block="row")
        for layer in self.layers:
            if layer.precision.weight != how:
                layer.set_precision(weight=how, activation=how)
        self._step = step
        return bits

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready: the settings and the last step."""
        return {**self.settings, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the step that was saved, with its bits set.

        Raises:
            ArtifactError: the state is of other settings.
        """
        saved = {key: state.get(key) for key in self.settings}
        if saved != self.settings:
            raise ArtifactError(
                f"The saved precision schedule has {saved}, this one {self.settings}; build it "
                "with the saved settings."
            )
        self(int(state["step"]))
