"""Training in few bits: recipes for linear layers, states of optimisers, gradients."""

from sartor.train.low_precision.adamw import low_bit_adamw, state_bytes
from sartor.train.low_precision.formats import Format
from sartor.train.low_precision.gradients import (
    ErrorFeedback,
    quantize_gradient,
    sign_gradient,
    top_k_gradient,
)
from sartor.train.low_precision.linear import LinearPrecision, LowPrecisionLinear, hadamard_rotate
from sartor.train.low_precision.prepare import PrecisionReport, prepare_low_precision_
from sartor.train.low_precision.qat import LearnedStep, bake_steps_, learn_steps_
from sartor.train.low_precision.quantize import QTensor, Quantizer, quantize
from sartor.train.low_precision.recipes import PrecisionRecipe, low_precision_recipe
from sartor.train.low_precision.rounding import StochasticRounding, stochastic_round_bf16
from sartor.train.low_precision.schedule import PrecisionSchedule, cyclic_bits

__all__ = [
    "ErrorFeedback",
    "Format",
    "LearnedStep",
    "LinearPrecision",
    "LowPrecisionLinear",
    "PrecisionRecipe",
    "PrecisionReport",
    "PrecisionSchedule",
    "QTensor",
    "Quantizer",
    "StochasticRounding",
    "bake_steps_",
    "cyclic_bits",
    "hadamard_rotate",
    "learn_steps_",
    "low_bit_adamw",
    "low_precision_recipe",
    "prepare_low_precision_",
    "quantize",
    "quantize_gradient",
    "sign_gradient",
    "state_bytes",
    "stochastic_round_bf16",
    "top_k_gradient",
]
