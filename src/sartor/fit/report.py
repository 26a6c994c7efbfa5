"""The report of a run: one page that works without a network, its texts escaped, its scripts
fixed.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import sartor
from sartor.core import BudgetError, Frontier, Point
from sartor.core.files import write_text
from sartor.core.packages import require
from sartor.fit.chart import AXES, axes, chart_data
from sartor.fit.tables import facts, moves_table, points_table
from sartor.fit.words import (
    candidates,
    latency_text,
    metric_name,
    moves_text,
    quality_text,
    speed_text,
)

__all__ = ["write_report"]


def write_report(frontier: Frontier, path: Path) -> None:
    """Write one self-contained page: chart, tables, recipes and how everything was measured.

    Nothing in it loads from a host, and its security policy forbids the browser to; names and other
    texts of the run are escaped.

    Args:
        frontier: of a run, finished or not.
        path: where the page goes.

    Raises:
        MissingPackageError: plotly is not installed.
    """
    plotly = _clean(require("plotly.offline").get_plotlyjs())
    page = {name: _clean(_part(f"report.{name}")) for name in ("html", "css", "js")}
    title = f"{frontier.task.get('name', 'task')} on {frontier.target}"
    write_text(
        path,
        Template(page["html"]).substitute(
            policy=_policy(plotly, page["js"]),
            title=html.escape(f"sartor: {title}"),
            heading=html.escape(title),
            lead=html.escape(_lead(frontier)),
            warning=_warning(frontier),
            cards="".join(_cards(frontier)),
            switch=_switch(frontier),
            points=points_table(frontier, _best(frontier)),
            moves=moves_table(frontier),
            notes=_notes(frontier.notes),
            facts=facts(frontier),
            version=html.escape(sartor.__version__),
            style=page["css"],
            data=_embedded(chart_data(frontier, _best(frontier))),
            plotly=plotly,
            script=page["js"],
        ),
    )


def _part(name: str) -> str:
    return (files("sartor.fit") / "page" / name).read_text(encoding="utf-8")


def _clean(text: str) -> str:
    """Line ends as a browser reads them, so that the checksums of scripts hold."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _policy(*scripts: str) -> str:
    """Only these scripts run, and nothing is loaded from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    )


def _embedded(value: Any) -> str:
    """JSON that cannot end the script element it lies in."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _best(frontier: Frontier) -> Point | None:
    try:
        return frontier.best()
    except BudgetError:
        return None


# --- texts ----------------------------------------------------------------------------------------


def _lead(frontier: Frontier) -> str:
    if not frontier.points:
        return "Nothing is on the frontier yet."
    models = sorted(frontier.points, key=lambda p: p.values["latency_ms"])
    first, last = models[0].values["latency_ms"], models[-1].values["latency_ms"]
    worst, best = (f(p.accuracy for p in models) for f in (min, max))
    metric = metric_name(frontier)
    return (
        f"{len(models)} model{'s' * (len(models) > 1)} on the frontier, from "
        f"{latency_text(first)} to {latency_text(last)} ms "
        f"(a span of {speed_text(last / first)}), {metric} from "
        f"{quality_text(worst, metric)} to {quality_text(best, metric)}; "
        f"{len(candidates(frontier))} models were measured."
    )


def _warning(frontier: Frontier) -> str:
    if frontier.complete:
        return ""
    return (
        '<p class="warning" role="note">This run has not reached its end; these are the best '
        "models so far. Go on with <code>--resume</code>.</p>"
    )


def _cards(frontier: Frontier) -> Iterable[str]:
    best = _best(frontier)
    bounded = bool(frontier.budget.constraints)
    label = "Best within the budget" if bounded else "Most accurate"
    if best is None:
        yield _card(label, "none", _why_none(frontier))
    else:
        yield _card(label, best.id, moves_text(best.recipe), _compared(best, frontier))
    binding = [c.text for c in frontier.binding()] if frontier.points else []
    binds = f"{' and '.join(binding)} {'bind' if len(binding) > 1 else 'binds'}"
    free = "no bound keeps a more accurate model out" if bounded else ""
    yield _card("Budget", str(frontier.budget) or "none given", binds if binding else free)
    machine = frontier.environment
    yield _card(
        "Target",
        str(frontier.target),
        str(machine.get("device") if frontier.target.device == "cuda" else machine.get("cpu", "")),
    )


def _why_none(frontier: Frontier) -> str:
    try:
        frontier.best()
    except BudgetError as error:
        return str(error)
    return ""


def _compared(point: Point, frontier: Frontier) -> str:
    metric = metric_name(frontier)
    said = f"{quality_text(point.accuracy, metric)}, {latency_text(point.values['latency_ms'])} ms"
    if not frontier.anchors or point.id == frontier.anchors[-1].id:
        return said
    largest = frontier.anchors[-1]
    ratio = largest.values["latency_ms"] / point.values["latency_ms"]
    size = largest.values["size_bytes"] / point.values["size_bytes"]
    return (
        f"{said}: {speed_text(ratio)} the speed and 1/{size:.3g} the size of {largest.id} "
        f"({quality_text(largest.accuracy, metric)})"
    )


def _card(term: str, big: str, *lines: str) -> str:
    rest = "".join(f'<dd class="soft">{html.escape(line)}</dd>' for line in lines if line)
    return f'<div><dt>{html.escape(term)}</dt><dd class="big">{html.escape(big)}</dd>{rest}</div>'


def _switch(frontier: Frontier) -> str:
    return "".join(
        f'<label><input type="radio" name="cost" value="{field}"{" checked" * (not number)}>'
        f"<span>{AXES[field][0]}</span></label>"
        for number, field in enumerate(axes(frontier))
    )


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    if not items:
        return ""
    heading = '<section aria-labelledby="h-notes"><h2 id="h-notes">Notes</h2>'
    return f'{heading}<ul class="notes">{items}</ul></section>'
