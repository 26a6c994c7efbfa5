"""How learning rates and penalty follow the batch in click-through models: the rule of CowClip and
the rules that it is held against.

Source: Zheng et al., AAAI 2023, arXiv 2204.06240, see :mod:`sartor.train.cowclip.clip`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sartor.core.errors import RecipeError

__all__ = ["ScaledRates", "cowclip_scaling", "dense_warmup", "linear_scaling", "sqrt_scaling"]


@dataclass(frozen=True, kw_only=True)
class ScaledRates:
    """Settings of a training at another batch.

    Attributes:
        lr_dense: of all weights but the embedding tables, above 0.
        lr_embedding: of the embedding tables, above 0.
        l2: weight of the sum of squares of the tables' entries, at least 0.
        warmup_epochs: of linear rise of the dense rate alone, see :func:`dense_warmup`.
    """

    lr_dense: float
    lr_embedding: float
    l2: float
    warmup_epochs: int = 0


def cowclip_scaling(
    base_batch: int, batch: int, lr_dense: float, lr_embedding: float, l2: float
) -> ScaledRates:
    """Scale as CowClip does: a batch that is s times as large takes the penalty s times, the dense
    rate sqrt(s) times and the embedding rate as it was, and the dense rate warms up for one epoch.

    The rule gives fewer steps to embeddings at an unchanged rate, so that it underfits unless the
    number of steps times ``lr_embedding`` is much more than the norm that rows start with.

    Args:
        base_batch: inputs a batch that the settings were found for, at least 1.
        batch: inputs a batch to train with, at least 1.
        lr_dense: at ``base_batch``, above 0.
        lr_embedding: at ``base_batch``, above 0.
        l2: at ``base_batch``, at least 0.

    Raises:
        RecipeError: a number is out of range.

    Example:
        >>> rates = cowclip_scaling(1024, 131072, 8e-4, 1e-4, 1e-5)
        >>> print(f"{rates.lr_dense:.7e} {rates.lr_embedding:g} {rates.l2:g}")
        9.0509668e-03 0.0001 0.00128
    """
    s = _ratio(base_batch, batch, lr_dense, lr_embedding, l2)
    return ScaledRates(
        lr_dense=lr_dense * math.sqrt(s), lr_embedding=lr_embedding, l2=l2 * s, warmup_epochs=1
    )


def sqrt_scaling(
    base_batch: int, batch: int, lr_dense: float, lr_embedding: float, l2: float
) -> ScaledRates:
    """Scale both rates and the penalty by sqrt(s), s being ``batch / base_batch``.

    Arguments and errors are those of :func:`cowclip_scaling`.

    Example:
        >>> sqrt_scaling(64, 256, 1e-3, 1e-3, 1e-5).lr_embedding
        0.002
    """
    root = math.sqrt(_ratio(base_batch, batch, lr_dense, lr_embedding, l2))
    return ScaledRates(lr_dense=lr_dense * root, lr_embedding=lr_embedding * root, l2=l2 * root)


def linear_scaling(
    base_batch: int, batch: int, lr_dense: float, lr_embedding: float, l2: float
) -> ScaledRates:
    """Scale both rates by s, ``batch / base_batch``, and leave the penalty as it is.

    Arguments and errors are those of :func:`cowclip_scaling`.

    Example:
        >>> linear_scaling(64, 256, 1e-3, 1e-3, 1e-5).lr_embedding
        0.004
    """
    s = _ratio(base_batch, batch, lr_dense, lr_embedding, l2)
    return ScaledRates(lr_dense=lr_dense * s, lr_embedding=lr_embedding * s, l2=l2)


def dense_warmup(step: int, steps: int, *, lr: float, start: float = 1e-8) -> float:
    """The dense rate at a step: a straight line from ``start`` to ``lr``, then ``lr``.

    Args:
        step: from 0.
        steps: of the warm-up, at least 0; those of the first epoch.
        lr: the rate to reach, above 0.
        start: the rate of step 0, at least 0.

    Raises:
        RecipeError: a number is out of range.

    Example:
        >>> [dense_warmup(step, 2, lr=0.1, start=0.0) for step in (0, 1, 2, 3)]
        [0.0, 0.05, 0.1, 0.1]
    """
    if step < 0 or steps < 0 or not lr > 0 or start < 0:
        raise RecipeError(
            "The warm-up takes step, steps and start of at least 0 and lr above 0, got "
            f"{step}, {steps}, {start:g} and {lr:g}."
        )
    return lr if step >= steps else start + (lr - start) * step / steps


def _ratio(base_batch: int, batch: int, lr_dense: float, lr_embedding: float, l2: float) -> float:
    if min(base_batch, batch) < 1 or not (lr_dense > 0 and lr_embedding > 0 and l2 >= 0):
        raise RecipeError(
            "Scaling takes batches of at least 1, rates above 0 and l2 of at least 0, got batches "
            f"{base_batch} and {batch}, rates {lr_dense:g} and {lr_embedding:g}, l2 {l2:g}."
        )
    return batch / base_batch
