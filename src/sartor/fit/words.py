"""What the report, the table and the picture say alike: moves, numbers and gains in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.core import Frontier, Point, Recipe

__all__ = [
    "Gain",
    "bytes_text",
    "candidates",
    "count_text",
    "gains",
    "latency_text",
    "metric_name",
    "moves_text",
    "quality_text",
    "speed_text",
]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What the last move of a point changed against the point that it was applied to.

    Attributes:
        point: after the move.
        parent: before it.
        accuracy: difference, after minus before.
        speed: latency before / latency after; above 1 is faster.
        size: size before / size after; above 1 is smaller.
    """

    point: Point
    parent: Point
    accuracy: float
    speed: float
    size: float


def candidates(frontier: Frontier) -> list[Point]:
    """Every model of a run once: the frontier, then anchors that are not on it, then the others."""
    unique: dict[str, Point] = {}
    for point in (*frontier.points, *frontier.anchors, *frontier.others):
        unique.setdefault(point.id, point)
    return list(unique.values())


def gains(frontier: Frontier) -> list[Gain]:
    """What each move gained or lost, for every model whose parent was measured too."""
    by_id = {point.id: point for point in candidates(frontier)}
    found = []
    for point in by_id.values():
        parent = by_id.get(point.parent or "")
        if parent is not None:
            found.append(
                Gain(
                    point=point,
                    parent=parent,
                    accuracy=point.accuracy - parent.accuracy,
                    speed=_ratio(parent.values["latency_ms"], point.values["latency_ms"]),
                    size=_ratio(parent.values["size_bytes"], point.values["size_bytes"]),
                )
            )
    return found


def _ratio(before: float, after: float) -> float:
    return before / after if after else 1.0


def moves_text(recipe: Recipe) -> str:
    """A recipe on one line.

    Example:
        >>> from sartor.core import Step
        >>> base = ({"name": "small"}, {"name": "large"})
        >>> steps = (
        ...     Step(move="sn-net", plan={"route": "a0-1.s0.2-3"}),
        ...     Step(move="prune", config={"ratio": 0.5}),
        ... )
        >>> moves_text(Recipe(base=base, steps=steps))
        'small→large at 2-3 + prune 50%'
    """
    names = [str(base.get("name", "?")) for base in recipe.base]
    said = [_step_text(s.move, {**s.config, **s.plan}, names) for s in recipe.steps]
    return f"{said[0]} as given" if recipe.moves == ("anchor",) else " + ".join(said)


def _step_text(move: str, settings: Mapping[str, Any], names: Sequence[str]) -> str:
    if move == "anchor":
        return _name(settings.get("index"), names)
    route = re.fullmatch(r"a([\d-]+)(?:\.s(\d+)\.([\d.-]+))?", str(settings.get("route", "")))
    if route:
        path = "→".join(_name(int(index), names) for index in route[1].split("-"))
        stage = f" in stage {route[2]}" if route[2] not in (None, "0") else ""
        return f"{path}{stage} at {route[3]}" if route[3] else f"{path} trained jointly"
    ratio = settings.get("ratio")
    return f"{move} {ratio:.0%}" if isinstance(ratio, float) else move


def _name(index: Any, names: Sequence[str]) -> str:
    known = isinstance(index, int) and 0 <= index < len(names)
    return names[index] if known else f"model {index}"


def metric_name(frontier: Frontier) -> str:
    """What the task calls the quality of a model."""
    return str(frontier.task.get("metric", "accuracy"))


def quality_text(value: float, metric: str = "accuracy") -> str:
    """Accuracy as a percentage, any other metric as it is.

    Example:
        >>> quality_text(0.8682), quality_text(0.5, "IoU")
        ('86.8%', '0.5000')
    """
    return f"{value:.1%}" if metric == "accuracy" else f"{value:.4f}"


def latency_text(milliseconds: float) -> str:
    """Milliseconds with three digits, without the unit."""
    return f"{milliseconds:.3g}" if milliseconds < 100 else f"{milliseconds:.0f}"


def speed_text(ratio: float) -> str:
    """A ratio of latencies or sizes."""
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def bytes_text(value: float) -> str:
    """A size in decimal units.

    Example:
        >>> bytes_text(61866), bytes_text(2_716_885)
        ('61.9 kB', '2.72 MB')
    """
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"), " ")


def count_text(value: float) -> str:
    """A count with a decimal prefix.

    Example:
        >>> count_text(371200), count_text(12)
        ('371k', '12')
    """
    return _scaled(value, ("", "k", "M", "G", "T"), "")


def _scaled(value: float, units: Sequence[str], gap: str) -> str:
    power = 0
    while value >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g}{gap}{units[power]}"
