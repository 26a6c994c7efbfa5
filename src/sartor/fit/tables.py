"""The report's tables as HTML, every text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from sartor.core import Frontier, Point
from sartor.fit.words import (
    Gain,
    bytes_text,
    candidates,
    count_text,
    gains,
    latency_text,
    metric_name,
    moves_text,
    quality_text,
    speed_text,
)

__all__ = ["facts", "moves_table", "points_table"]

_SHORT = 60


def _cell(text: str, classes: str = "", tag: str = "td") -> str:
    """One escaped cell; ``th`` heads its row."""
    scope = ' scope="row"' if tag == "th" else ""
    name = f' class="{classes}"' if classes else ""
    return f"<{tag}{scope}{name}>{html.escape(text)}</{tag}>"


def _head(columns: Iterable[tuple[str, bool]]) -> str:
    cells = (
        f'<th scope="col"{" class=text" * text}>{html.escape(name)}</th>' for name, text in columns
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _chip(word: str, style: str) -> str:
    return f'<span class="chip {style}">{html.escape(word)}</span>'


# --- models ---------------------------------------------------------------------------------------


def points_table(frontier: Frontier, best: Point | None) -> str:
    """The frontier, cheapest first, and the anchors off it; the others fold away beneath."""
    shown = {point.id for point in (*frontier.points, *frontier.anchors)}
    rows: list[str] = []
    folded: list[str] = []
    for point in candidates(frontier):
        (rows if point.id in shown else folded).append(_point_row(point, frontier, best))
    caption = "Latency: median ± half the interquartile range. Speed-up: over the largest as given."
    more = (
        f"<details><summary>{len(folded)} more that were made and are not on the frontier</summary>"
        f"{_table(_columns(frontier), folded, 'Off the frontier')}</details>"
    )
    return _table(_columns(frontier), rows, caption) + (more if folded else "")


def _columns(frontier: Frontier) -> list[tuple[str, bool]]:
    numbers = ("latency, ms", "speed-up", "size", "parameters", "FLOPs")
    return [("model", True), (metric_name(frontier), False), *((name, False) for name in numbers)]


def _table(columns: Iterable[tuple[str, bool]], rows: Iterable[str], caption: str) -> str:
    """A table in a box of its own that scrolls, by keyboard too."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}">'
        f"<table><caption>{html.escape(caption)}</caption>{_head(columns)}"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _point_row(point: Point, frontier: Frontier, best: Point | None) -> str:
    cost, name = point.measurement, html.escape(point.id)
    slowest = frontier.anchors[-1].measurement.latency_ms if frontier.anchors else cost.latency_ms
    numbers = (
        quality_text(point.accuracy, metric_name(frontier)),
        f"{latency_text(cost.latency_ms)} ± {cost.latency_iqr_ms / 2:.2g}",
        speed_text(slowest / cost.latency_ms),
        bytes_text(cost.size_bytes),
        count_text(cost.params),
        count_text(cost.flops),
    )
    head = (
        f'<th scope="row" class="text"><button type="button">{name}</button> '
        f"{_chips(point, frontier, best)}"
        f'<br><span class="soft">{html.escape(moves_text(point.recipe))}</span></th>'
    )
    return f'<tr data-id="{name}">{head}{"".join(map(_cell, numbers))}</tr>'


def _chips(point: Point, frontier: Frontier, best: Point | None) -> str:
    on_frontier = any(point.id == p.id for p in frontier.points)
    chips = [_chip("best", "best")] if best is not None and point.id == best.id else []
    if on_frontier:
        chips.append(_chip("frontier", "frontier"))
    if any(point.id == p.id for p in frontier.anchors):
        chips.append(_chip("as given", "anchor"))
    elif not on_frontier:
        style = "dropped" if point.status == "dropped" else "dominated"
        chips.append(_chip(point.status, style))
    return "".join(chips)


# --- moves ----------------------------------------------------------------------------------------


def moves_table(frontier: Frontier) -> str:
    """For every model made from another: differences and ratios against it, and the verdict."""
    found = gains(frontier)
    if not found:
        return '<p class="soft">No move was applied on top of another model in this run.</p>'
    numbers = (metric_name(frontier), "speed", "size")
    columns = [("move", True), ("on", True), *((n, False) for n in numbers)]
    columns += [("kept", True), ("why not", True)]
    on_frontier = {point.id for point in frontier.points}
    rows = [_gain_row(gain, frontier, gain.point.id in on_frontier) for gain in found]
    caption = "Against the model that the move was applied to; above 1x is faster or smaller."
    return _table(columns, rows, caption)


def _gain_row(gain: Gain, frontier: Frontier, kept: bool) -> str:
    percent = metric_name(frontier) == "accuracy"
    change = f"{100 * gain.accuracy:+.1f} points" if percent else f"{gain.accuracy:+.4f}"
    step = gain.point.recipe.steps[-1:]
    move = moves_text(type(gain.point.recipe)(base=gain.point.recipe.base, steps=step))
    verdict = _chip("frontier", "frontier") if kept else _chip(gain.point.status, _style(gain))
    cells = (
        _cell(move, "text", "th"),
        _cell(gain.parent.id, "text"),
        _cell(change, _sign(gain.accuracy, 0)),
        _cell(speed_text(gain.speed), _sign(gain.speed, 1)),
        _cell(speed_text(gain.size), _sign(gain.size, 1)),
        f'<td class="text">{verdict}</td>',
        _cell(gain.point.reason, "text soft wide"),
    )
    return f"<tr>{''.join(cells)}</tr>"


def _style(gain: Gain) -> str:
    return "dropped" if gain.point.status == "dropped" else "dominated"


def _sign(value: float, neutral: float) -> str:
    if abs(value - neutral) < (5e-3 if neutral else 5e-4):  # what is shown as no change
        return ""
    return "good" if value > neutral else "bad"


# --- how it was measured --------------------------------------------------------------------------


def facts(frontier: Frontier) -> str:
    """Target, clock, machine, software and settings, as lists of pairs."""
    target, points = frontier.target, candidates(frontier)
    clock = {
        "warm-up runs": _range(p.measurement.warmup for p in points),
        "timed runs": _range(p.measurement.repeats for p in points),
        "number given": "median, interquartile range",
        "wall time of the run": f"{frontier.seconds:.0f} s",
        "complete": "yes" if frontier.complete else "no",
    }
    machine = dict(frontier.environment)
    packages = machine.pop("packages", {})
    groups: dict[str, Mapping[str, Any]] = {
        "Target": {
            "device": target.device,
            "runtime": target.runtime,
            "threads": target.threads,
            "batch": target.batch,
        },
        "Clock": clock,
        "Task": frontier.task,
        "Machine": machine,
        "Software": packages if isinstance(packages, Mapping) else {"packages": packages},
        "Settings": frontier.settings,
    }
    return "".join(_group(name, pairs) for name, pairs in groups.items() if pairs)


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return " to ".join(str(n) for n in dict.fromkeys((*found[:1], *found[-1:]))) or "none"


def _group(name: str, pairs: Mapping[str, Any]) -> str:
    entries = "".join(
        f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(_text(value))}</dd>"
        for key, value in pairs.items()
    )
    return f"<div><h3>{html.escape(name)}</h3><dl>{entries}</dl></div>"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        said = ", ".join(map(str, value))
        return said if len(said) <= _SHORT else f"{len(value)} entries"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == "" else str(value)
