"""Few data, many epochs: how often a plan repeats its data, and what to do about it.

Source: Xue, Fu, Zhou, Zheng, You, To Repeat or Not To Repeat: Insights from Scaling LLM under
    Token-Crisis, NeurIPS 2023, arXiv 2305.13230; no code was released. That compute-optimal means
20 tokens a parameter is from Hoffmann et al., 2022, arXiv 2203.15556, and that 4 epochs are nearly
as good as new data from Muennighoff et al., 2023, arXiv 2305.16264.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from sartor.core.errors import DataError, RecipeError

__all__ = ["DataBudget", "data_budget_report"]

TOKENS_PER_PARAM = 20
CHEAP_EPOCHS = 4
#: rates worth trying first where data are repeated, and from which share of the steps
LATE_RATES, LATE_START = (0.1, 0.2), 0.5


@dataclass(frozen=True, kw_only=True)
class DataBudget:
    """What a plan of training asks of its data.

    Attributes:
        epochs: how often each token is seen.
        tokens_per_param: unique tokens for each trained parameter.
        compute_optimal_tokens: 20 for each trained parameter.
        repetition_ratio: compute-optimal tokens over unique tokens.
        dropout_rates: rates to try; empty where no dropout is advised.
        dropout_start: share of the steps after which dropout is switched on.
        advice: the same in one sentence.
    """

    epochs: float
    tokens_per_param: float
    compute_optimal_tokens: float
    repetition_ratio: float
    dropout_rates: tuple[float, ...]
    dropout_start: float
    advice: str


def data_budget_report(
    num_params: float, unique_tokens: float, tokens_to_see: float, *, context_length: int = 1
) -> DataBudget:
    """Say how often a plan repeats its data, and what to do about it.

    Args:
        num_params: trained parameters, above 0.
        unique_tokens: tokens at hand, more than ``context_length``.
        tokens_to_see: steps * batch * context of the plan; fewer than ``unique_tokens`` repeat
            nothing, and a warning says so.
        context_length: tokens in one input, at least 1.

    Raises:
        RecipeError: a number is not positive and finite.
        DataError: the data do not fill more than one input.

    Example:
        >>> plan = data_budget_report(2_800_000_000, 2**27, 2**35)
        >>> plan.epochs, round(plan.repetition_ratio, 2)
        (256.0, 417.23)
    """
    numbers = (num_params, unique_tokens, tokens_to_see, context_length)
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise RecipeError(
            "num_params, unique_tokens, tokens_to_see and context_length must be positive and "
            f"finite, got {numbers}."
        )
    if unique_tokens <= context_length:
        raise DataError(
            f"{unique_tokens:g} unique tokens do not fill more than one input of {context_length}; "
            "give more text or a shorter context."
        )
    epochs = tokens_to_see / unique_tokens
    if epochs < 1:
        warnings.warn(
            f"The plan sees {tokens_to_see:g} of {unique_tokens:g} tokens, so that nothing "
            "repeats.",
            stacklevel=2,
        )
    repeats = epochs > CHEAP_EPOCHS
    return DataBudget(
        epochs=epochs,
        tokens_per_param=unique_tokens / num_params,
        compute_optimal_tokens=float(TOKENS_PER_PARAM * num_params),
        repetition_ratio=TOKENS_PER_PARAM * num_params / unique_tokens,
        dropout_rates=LATE_RATES if repeats else (),
        dropout_start=LATE_START if repeats else 1.0,
        advice=_advice(epochs, repeats),
    )


def _advice(epochs: float, repeats: bool) -> str:
    if not repeats:
        return f"{epochs:.3g} epochs: train without dropout."
    low, high = LATE_RATES
    return (
        f"{epochs:.3g} epochs: switch dropout of {low} to {high} on after {LATE_START:.0%} of the "
        "steps, and stop when the validation loss has risen."
    )
