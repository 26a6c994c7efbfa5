"""Budgets: what a model may cost, read from text such as ``latency<=12ms, params<=60%``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sartor.core.errors import BudgetError, nearest

__all__ = ["QUANTITIES", "Budget", "Constraint"]

_DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_TIME_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}

#: quantity in a budget -> (field of a point, legal comparison, legal units)
QUANTITIES: dict[str, tuple[str, str, dict[str, float]]] = {
    "latency": ("latency_ms", "<=", _TIME_MS),
    "size": ("size_bytes", "<=", _BYTES),
    "params": ("params", "<=", _DECIMAL),
    "flops": ("flops", "<=", _DECIMAL),
    "accuracy": ("accuracy", ">=", {"": 1.0}),
}
_PATTERN = re.compile(
    r"^\s*(\w+)\s*(<=|>=)\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(%|[a-z]*)\s*$", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One bound. ``limit`` is in the unit of the point's field, or a fraction of the largest anchor
    if ``relative``.
    """

    quantity: str
    limit: float
    relative: bool
    text: str

    @property
    def field(self) -> str:
        """The field of a point that is bounded: ``latency_ms``, ``size_bytes``, ``params``,
        ``flops`` or ``accuracy``.
        """
        return QUANTITIES[self.quantity][0]

    def absolute(self, reference: Mapping[str, float]) -> float:
        """The bound in the field's unit, given the largest anchor's numbers."""
        return self.limit * reference[self.field] if self.relative else self.limit

    def excess(self, values: Mapping[str, float], reference: Mapping[str, float]) -> float:
        """How far ``values`` miss the bound, as a fraction of the bound; 0 or less where it
        holds.
        """
        bound, value = self.absolute(reference), values[self.field]
        gap = bound - value if QUANTITIES[self.quantity][1] == ">=" else value - bound
        return gap / (abs(bound) or 1.0)  # a bound of 0: a share of an anchor that counts 0


@dataclass(frozen=True)
class Budget:
    """Several constraints that must hold at once; none at all is legal and always holds.

    Example:
        >>> budget = Budget.parse("latency<=12ms, params<=60%")
        >>> [c.field for c in budget.constraints]
        ['latency_ms', 'params']
    """

    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def parse(cls, text: str | Sequence[str] | Budget | None) -> Budget:
        """Read constraints separated by commas or given as a list.

        Args:
            text: quantities ``latency`` (us, ms, s), ``size`` (B, kB, MB, GB, KiB, MiB, GiB),
                ``params`` and ``flops`` (k, M, G, T) with ``<=``, and ``accuracy`` in (0, 1] with
                ``>=``. A cost may instead end in ``%``: of the largest anchor's.

        Raises:
            BudgetError: the text is not a budget.
        """
        if isinstance(text, Budget):
            return text
        parts = (
            text.split(",")
            if isinstance(text, str)
            else [p for item in text or () for p in item.split(",")]
        )
        return cls(tuple(_constraint(part.strip()) for part in parts if part.strip()))

    @property
    def costs(self) -> tuple[str, ...]:
        """Fields of the bounded costs (accuracy is none), in the order given, without repeats."""
        return tuple(dict.fromkeys(c.field for c in self.constraints if c.quantity != "accuracy"))

    def broken(
        self, values: Mapping[str, float], reference: Mapping[str, float]
    ) -> list[Constraint]:
        """The constraints that ``values`` break, worst first."""
        excess = {c: c.excess(values, reference) for c in self.constraints}
        return sorted((c for c, e in excess.items() if e > 0), key=lambda c: -excess[c])

    def excess(self, values: Mapping[str, float], reference: Mapping[str, float]) -> float:
        """The largest relative miss over all constraints; 0 where all hold."""
        return max((max(c.excess(values, reference), 0.0) for c in self.constraints), default=0.0)

    def __str__(self) -> str:
        return ", ".join(c.text for c in self.constraints)


def _constraint(text: str) -> Constraint:
    match = _PATTERN.match(text)
    if not match:
        raise BudgetError(
            f"The budget {text!r} cannot be read; write for example 'latency<=12ms' or "
            "'accuracy>=0.9'."
        )
    quantity, comparison, number, unit = match[1].lower(), match[2], match[3], match[4].lower()
    if quantity not in QUANTITIES:
        raise BudgetError(
            f"The budget {text!r} bounds the unknown quantity {quantity!r}; "
            f"{nearest(quantity, QUANTITIES)}"
        )
    _, legal, units = QUANTITIES[quantity]
    if comparison != legal:
        raise BudgetError(
            f"The budget {text!r} must use {legal}: write '{quantity}{legal}{number}{match[4]}'."
        )
    relative = unit == "%"
    if relative and quantity == "accuracy":
        raise BudgetError(
            f"The budget {text!r} must give accuracy as a fraction: write for example "
            "'accuracy>=0.9'."
        )
    if not relative and unit not in units:
        raise BudgetError(
            f"The budget {text!r} has the unit {match[4]!r}; {quantity} takes "
            f"{' '.join(filter(None, units))}, or %."
        )
    try:
        limit = float(number) * (0.01 if relative else units[unit])
    except ValueError as error:
        raise BudgetError(
            f"The budget {text!r} bounds {quantity} by {number!r}, which is no number."
        ) from error
    if not 0 < limit < math.inf or (quantity == "accuracy" and limit > 1):
        raise BudgetError(
            f"The budget {text!r} is out of range: accuracy lies in (0, 1], costs are finite and "
            "above 0."
        )
    return Constraint(
        quantity=quantity,
        limit=limit,
        relative=relative,
        text=f"{quantity}{legal}{number}{match[4]}",
    )
