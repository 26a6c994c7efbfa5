"""What the report's chart shows, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sartor.core import Frontier, Point
from sartor.fit.words import (
    bytes_text,
    candidates,
    count_text,
    latency_text,
    metric_name,
    moves_text,
    quality_text,
)

__all__ = ["AXES", "axes", "chart_data"]

#: cost -> short name, title of its axis
AXES = {
    "latency_ms": ("Latency", "latency, ms a batch of {batch} ({target})"),
    "size_bytes": ("Size", "size of the deployed file, bytes"),
    "params": ("Parameters", "parameters"),
    "flops": ("FLOPs", "FLOPs for one input (multiply and add counted apart)"),
}


def axes(frontier: Frontier) -> list[str]:
    """Costs that the chart can show, the one that orders the frontier first."""
    return list(dict.fromkeys((*(c for c in frontier.costs if c in AXES), *AXES)))


def chart_data(frontier: Frontier, best: Point | None) -> dict[str, Any]:
    """Everything that the page's script shows, JSON-ready.

    Args:
        frontier: of a run, finished or not.
        best: the point within the run's budget, if there is one.
    """
    metric = metric_name(frontier)
    target = frontier.target
    points = [_datum(point, frontier, metric) for point in candidates(frontier)]
    return {
        "axes": [
            {"field": f, "title": AXES[f][1].format(batch=target.batch, target=target.name)}
            for f in axes(frontier)
        ],
        "quality": f"{metric}, %" if metric == "accuracy" else metric,
        "scale": 100 if metric == "accuracy" else 1,
        "points": points,
        "best": best.id if best else "",
        "best_label": "best in budget" if frontier.budget.constraints else "most accurate",
        "chosen": best.id if best else next((p["id"] for p in points), ""),
        "bounds": [
            {"field": c.field, "text": c.text, "value": c.absolute(frontier.reference)}
            for c in (frontier.budget.constraints if frontier.anchors else ())
        ],
    }


def _datum(point: Point, frontier: Frontier, metric: str) -> Mapping[str, Any]:
    cost, words = point.measurement, moves_text(point.recipe)
    latency = f"{latency_text(cost.latency_ms)} ± {cost.latency_iqr_ms / 2:.2g} ms"
    numbers = [
        (metric, quality_text(point.accuracy, metric)),
        ("latency", latency),
        ("size", bytes_text(cost.size_bytes)),
        ("parameters", count_text(cost.params)),
        ("FLOPs", count_text(cost.flops)),
        ("made in", f"{point.seconds:.1f} s"),
    ]
    if cost.peak_memory_bytes is not None:
        numbers.insert(3, ("peak memory", bytes_text(cost.peak_memory_bytes)))
    shown = [value for _, value in numbers[:3]]
    return {
        **{field: point.values[field] for field in AXES},
        "id": point.id,
        "accuracy": point.accuracy,
        "iqr": cost.latency_iqr_ms,
        "status": point.status,
        "reason": point.reason,
        "frontier": any(point.id == p.id for p in frontier.points),
        "anchor": any(point.id == p.id for p in frontier.anchors),
        "words": words,
        "hover": [point.id, words, ", ".join(shown)],
        "numbers": numbers,
        "recipe": point.recipe.to_dict(),
        "files": dict(point.files),
    }
