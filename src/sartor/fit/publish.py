"""Publishing: from the candidates of a run to its frontier on disk."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sartor.core import Budget, Frontier, MissingPackageError, Point
from sartor.core.files import atomic_path, sha256
from sartor.fit.picture import draw_frontier
from sartor.fit.planner import judge
from sartor.fit.progress import Progress
from sartor.fit.report import write_report
from sartor.fit.saving import saved_text
from sartor.fit.workshop import Workshop
from sartor.measure import environment

__all__ = ["publish", "write_pages"]


def publish(
    workshop: Workshop, budget: Budget, anchor_ids: list[str], *, complete: bool
) -> Frontier:
    """Judge all that was measured and write it: the files of each point first, then
    ``frontier.json``.

    Args:
        workshop: its state has the candidates.
        budget: of the run; the costs that it bounds are weighed too.
        anchor_ids: candidates that are the family as it was given, small to large.
        complete: whether the run reached its end.

    Returns:
        The frontier; it has no anchors, and nothing is written, if nothing was measured yet.
    """
    state, task, settings = workshop.state, workshop.task, workshop.settings
    costs = tuple(dict.fromkeys((*settings.costs, *budget.costs)))
    judged = judge([c.point() for c in state.candidates.values() if c.measurement], costs)
    kept = [_with_files(p, state.made, state.folder) for p in judged if p.status == "frontier"]
    kept.sort(key=lambda p: p.values[costs[0]])
    frontier = Frontier(
        task={
            "name": task.name,
            "metric": task.metric,
            "input_shape": list(task.input_shape),
            "classes": list(task.classes),
            "preprocess": _plain(task.preprocess),
        },
        target=workshop.target,
        points=tuple(kept),
        anchors=tuple(replace(p, status="anchor", reason="") for p in judged if p.id in anchor_ids),
        others=tuple(p for p in judged if p.status != "frontier" and p.id not in anchor_ids),
        costs=costs,
        budget=budget,
        environment=environment(),
        settings=settings.to_dict(),
        notes=_notes(workshop),
        seconds=state.seconds,
        complete=complete,
    )
    if frontier.anchors:
        frontier.save(state.folder)
        for stale in (state.folder / "points").glob("*"):
            if stale.name not in {p.id for p in kept}:
                shutil.rmtree(stale)
    return frontier


def write_pages(frontier: Frontier, folder: Path, progress: Progress) -> None:
    """Write the report and the picture; without their packages the run is whole all the same."""
    try:
        write_report(frontier, folder / "report.html")
        draw_frontier(frontier, folder / "frontier.svg")
    except MissingPackageError as error:
        progress.say(f"No report: {error}")


def _plain(preprocess: Mapping[str, Sequence[float]] | None) -> dict[str, list[float]] | None:
    return {key: list(values) for key, values in preprocess.items()} if preprocess else None


def _with_files(point: Point, made: Path, run: Path) -> Point:
    """Copy a candidate's files to ``points/<id>`` and note their checksums."""
    folder = run / "points" / point.id
    digests = {}
    for path in sorted((made / point.id).iterdir()):
        with atomic_path(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
        digests[path.name] = sha256(folder / path.name)
    return replace(point, files=digests, folder=folder)


def _notes(workshop: Workshop) -> tuple[str, ...]:
    state = workshop.state
    barred = [
        f"{move} was tried on the largest anchor only: {why}" for move, why in state.barred.items()
    ]
    failed = [f"{id} failed: {why}" for id, why in state.failures.items()]
    trainings = [row for id, row in state.trainings.items() if id not in state.failures]
    saved = saved_text(workshop.settings.save, trainings, state.step_bytes)
    return (*workshop.task.notes, *saved, *barred, *failed, *_recovered(workshop))


def _recovered(workshop: Workshop) -> tuple[str, ...]:
    """What recovery cost and gained: all of it, then model by model."""
    state, metric = workshop.state, workshop.task.metric
    made = {id: r for id, r in state.recoveries.items() if id in state.candidates}
    if not made:
        return ()
    gains = {id: state.candidates[id].accuracy - float(r["before"]) for id, r in made.items()}
    seconds = math.fsum(float(r["seconds"]) for r in made.values())
    names = " and ".join(sorted({repr(r["distiller"]) for r in made.values()}))
    total = (
        f"Recovery {names} took {seconds:.1f} s for {len(made)} models and changed their {metric} "
        f"by {statistics.mean(gains.values()):+.3f} on average (validation data, before it and as "
        "deployed)."
    )
    return (total, *(_told(id, r, state.candidates[id].accuracy, metric) for id, r in made.items()))


def _told(id: str, recovery: Mapping[str, Any], accuracy: float, metric: str) -> str:
    took = f"{id}: recovery took {float(recovery['seconds']):.1f} s and"
    if not recovery["kept"]:
        return f"{took} was undone, as the model was better on the selection data without."
    return f"{took} changed {metric} from {float(recovery['before']):.3f} to {accuracy:.3f}."
