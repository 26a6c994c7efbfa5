"""The frontier as a picture for pages that cannot run scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sartor.core import Frontier, Point
from sartor.core.files import atomic_path
from sartor.core.packages import require
from sartor.fit.words import candidates, metric_name

__all__ = ["draw_frontier"]

_STYLE = {
    "svg.hashsalt": "sartor",
    "svg.fonttype": "path",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "text.color": "#0f172a",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "legend.frameon": False,
}
_FRONTIER, _ANCHOR, _OTHER = "#0f766e", "#b45309", "#94a3b8"


def draw_frontier(frontier: Frontier, path: Path) -> None:
    """Draw accuracy against latency as SVG: the frontier, the anchors and what they dominate.

    The same frontier gives the same bytes.

    Args:
        frontier: of a run, finished or not.
        path: where the picture goes.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib")
    backend = require("matplotlib.backends.backend_svg")
    figure_type = require("matplotlib.figure").Figure
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": "svg"}):
        figure = figure_type(figsize=(8, 4.5), layout="constrained", facecolor="white")
        _draw(figure.add_subplot(), frontier)
        with atomic_path(path) as temporary:
            backend.FigureCanvasSVG(figure).print_svg(temporary, metadata={"Date": None})


def _draw(axes: Any, frontier: Frontier) -> None:
    anchors = {point.id for point in frontier.anchors}
    on_frontier = {point.id for point in frontier.points}
    others = [p for p in candidates(frontier) if p.id not in anchors | on_frontier]
    scale = 100 if metric_name(frontier) == "accuracy" else 1
    unit = ", %" if scale == 100 else ""
    _scatter(axes, others, scale, "tried, dominated or dropped", marker="o", s=26, c=_OTHER)
    front = sorted(frontier.points, key=lambda p: p.values["latency_ms"])
    axes.step(
        [p.values["latency_ms"] for p in front],
        [scale * p.accuracy for p in front],
        where="post",
        color=_FRONTIER,
        alpha=0.5,
        zorder=2,
    )
    _scatter(axes, front, scale, "frontier", marker="o", s=56, c=_FRONTIER, zorder=3)
    _scatter(
        axes,
        frontier.anchors,
        scale,
        "the models as given",
        marker="D",
        s=64,
        facecolors="white",
        edgecolors=_ANCHOR,
        linewidths=2,
        zorder=4,
    )
    for anchor in frontier.anchors:
        axes.annotate(
            _plain(anchor.id),
            (anchor.values["latency_ms"], scale * anchor.accuracy),
            xytext=(8, -14),
            textcoords="offset points",
            color=_ANCHOR,
            zorder=5,
        )
    axes.set_xscale("log")
    _plain_ticks(axes)
    axes.set_xlabel(f"latency of a batch of {frontier.target.batch}, ms ({frontier.target.name})")
    axes.set_ylabel(_plain(f"{frontier.task.get('metric', 'accuracy')}{unit}"))
    axes.set_axisbelow(True)
    axes.margins(x=0.08, y=0.1)
    axes.legend(loc="lower right")


def _scatter(axes: Any, points: Sequence[Point], scale: int, label: str, **style: Any) -> None:
    if points:
        costs = [point.values["latency_ms"] for point in points]
        axes.scatter(costs, [scale * point.accuracy for point in points], label=label, **style)


def _plain_ticks(axes: Any) -> None:
    """Numbers instead of powers of ten."""
    ticker = require("matplotlib.ticker")
    low, high = axes.get_xlim()
    subs = (1, 2, 5) if high / low > 4 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # no mathematics in names
