"""What a model costs, and how that was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sartor.core.schema import Shape, check_keys

__all__ = ["Latency", "Measurement"]

_REQUIRED: Shape = {
    **dict.fromkeys(("latency_ms", "latency_iqr_ms"), (int, float)),
    **dict.fromkeys(("warmup", "repeats", "flops", "params", "size_bytes"), int),
}
_OPTIONAL: Shape = {"peak_memory_bytes": (int, type(None))}


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time of one batch in milliseconds: median and interquartile range over ``repeats`` runs after
    ``warmup`` runs.
    """

    median_ms: float
    iqr_ms: float
    warmup: int
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Cost of one model in one target.

    ``flops`` counts multiply and add apart, for one input; ``size_bytes`` is the file that is
    deployed; ``params`` are the values of the float model, whatever their later width in bits;
    ``peak_memory_bytes`` is ``None`` where no meter exists.
    """

    latency_ms: float
    latency_iqr_ms: float
    warmup: int
    repeats: int
    flops: int
    params: int
    size_bytes: int
    peak_memory_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any) -> Measurement:
        """Inverse of :meth:`to_dict`."""
        check_keys(value, "The measurement", _REQUIRED, _OPTIONAL)
        return cls(**value)
