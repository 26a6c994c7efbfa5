"""The frontier as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sartor.core import Frontier, Point
from sartor.fit.words import (
    bytes_text,
    candidates,
    count_text,
    latency_text,
    metric_name,
    moves_text,
    quality_text,
    speed_text,
)

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["frontier_table"]


def frontier_table(frontier: Frontier) -> Table:
    """Lay out the points of a frontier, cheapest first, then the anchors that are not on it.

    Args:
        frontier: of a run, finished or not.

    Returns:
        A table with two lines a model, 80 columns suffice; speed-up is over the largest anchor.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def lines(first: str, second: str) -> Text:
        return Text.assemble(first, "\n", (second, "dim"))

    title = Text(f"{frontier.task.get('name', 'task')} on {frontier.target}")
    caption = "latency of one batch: median ± half the interquartile range"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(lines("model", "how it was made"), overflow="fold")
    for first, second in _headings(frontier):
        table.add_column(lines(first, second), justify="right", no_wrap=True)
    on_frontier, anchors = ({p.id for p in part} for part in (frontier.points, frontier.anchors))
    for point in candidates(frontier):
        if point.id in on_frontier | anchors:
            made = moves_text(point.recipe) + " (anchor)" * (point.id in anchors)
            bold = "bold" if point.id in on_frontier else ""
            name = Text.assemble((point.id, bold), "\n", (made, "dim"))
            cells = (lines(*pair) for pair in _numbers(point, frontier))
            table.add_row(name, *cells, style="" if point.id in on_frontier else "dim")
    return table


def _headings(frontier: Frontier) -> tuple[tuple[str, str], ...]:
    return (metric_name(frontier), "FLOPs"), ("latency ms", "speed-up"), ("size", "params")


def _numbers(point: Point, frontier: Frontier) -> tuple[tuple[str, str], ...]:
    cost = point.measurement
    slowest = frontier.anchors[-1].measurement.latency_ms if frontier.anchors else cost.latency_ms
    latency = f"{latency_text(cost.latency_ms)} ± {cost.latency_iqr_ms / 2:.2g}"
    return (
        (quality_text(point.accuracy, metric_name(frontier)), count_text(cost.flops)),
        (latency, speed_text(slowest / cost.latency_ms)),
        (bytes_text(cost.size_bytes), count_text(cost.params)),
    )
