"""The memory of a run: what was made and measured, kept on disk after each part, so that a killed
run goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sartor.core import ArtifactError, Measurement, Point, Recipe
from sartor.core.files import check_writable, read_json, write_json

__all__ = ["Candidate", "RunState", "open_run"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that was made: its files lie in ``folder``; it may not be measured yet."""

    id: str
    recipe: Recipe
    parent: str | None
    accuracy: float
    seconds: float
    folder: Path
    measurement: Measurement | None = None

    def point(self) -> Point:
        """The candidate as a point; it must have been measured."""
        assert self.measurement is not None
        return Point(
            id=self.id,
            accuracy=self.accuracy,
            measurement=self.measurement,
            recipe=self.recipe,
            seconds=self.seconds,
            parent=self.parent,
        )


@dataclass
class RunState:
    """Everything that a resumed run needs to know, in ``state/journal.json``."""

    folder: Path
    candidates: dict[str, Candidate] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    barred: dict[str, str] = field(default_factory=dict)
    recoveries: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    step_bytes: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def made(self) -> Path:
        """Folder of the candidates' folders."""
        return self.folder / "state" / "made"

    def save(self) -> None:
        """Write the journal atomically."""
        rows = []
        for one in self.candidates.values():
            measured = one.measurement.to_dict() if one.measurement else None
            plain = {k: getattr(one, k) for k in ("id", "parent", "accuracy", "seconds")}
            rows.append({**plain, "recipe": one.recipe.to_dict(), "measurement": measured})
        value = {"candidates": rows, "scores": self.scores, "failures": self.failures}
        write_json(
            self.folder / "state" / "journal.json",
            {
                **value,
                "barred": self.barred,
                "recoveries": self.recoveries,
                "trainings": self.trainings,
                "step_bytes": self.step_bytes,
                "seconds": self.seconds,
            },
        )

    def add(self, candidate: Candidate) -> None:
        """Remember a candidate."""
        self.candidates[candidate.id] = candidate
        self.save()

    def measured(self, measurements: Mapping[str, Measurement]) -> None:
        """Remember what candidates cost."""
        for id, measurement in measurements.items():
            self.candidates[id] = replace(self.candidates[id], measurement=measurement)
        self.save()

    @classmethod
    def load(cls, folder: Path) -> RunState:
        """Read the journal of a run; an empty one if there is none."""
        state = cls(folder)
        if not (folder / "state" / "journal.json").exists():
            return state
        value = read_json(folder / "state" / "journal.json")
        try:
            for row in value["candidates"]:
                measured = Measurement.from_dict(row["measurement"]) if row["measurement"] else None
                recipe = Recipe.from_dict(row["recipe"])
                fields = {**row, "recipe": recipe, "measurement": measured}
                state.candidates[row["id"]] = Candidate(**fields, folder=state.made / row["id"])
            state.scores, state.failures = value["scores"], value["failures"]
            state.barred, state.seconds = value["barred"], value["seconds"]
            # runs of older versions have none of these
            state.recoveries = value.get("recoveries", {})
            state.trainings = value.get("trainings", {})
            state.step_bytes = value.get("step_bytes", [])
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"The journal of {folder} is damaged ({error!r}); fit again with --overwrite."
            ) from error
        return state


def open_run(
    folder: Path, facts: Mapping[str, Any], *, resume: bool, overwrite: bool, needed_bytes: int
) -> RunState:
    """Make a run's folder, or find the state of an earlier run in it.

    Args:
        folder: of the run.
        facts: JSON-ready description of models, task, target and settings, which a resumed run must
            share.
        resume: go on with what is there; an empty folder is begun.
        overwrite: remove what an earlier run left there.
        needed_bytes: space that the run may take.

    Raises:
        ArtifactError: the folder cannot be written, holds another run, or something that is no run.
    """
    told = folder / "run.json"
    if folder.is_dir() and any(folder.iterdir()) and not told.exists():
        raise ArtifactError(
            f"The folder {folder} holds other files; choose an empty one with --out."
        )
    if told.exists() and not (resume or overwrite):
        raise ArtifactError(
            f"The folder {folder} holds a run already; go on with --resume, start anew with "
            "--overwrite, "
            "or choose another one with --out."
        )
    check_writable(folder, needed_bytes)
    if told.exists() and overwrite and not resume:
        for name in ("state", "points"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("frontier.json", "report.html", "frontier.svg", "run.json"):
            (folder / name).unlink(missing_ok=True)
    if told.exists():
        _check_same(read_json(told), facts, folder)
    write_json(told, facts)
    return RunState.load(folder)


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    changed = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
    if changed:
        first = changed[0]
        raise ArtifactError(
            f"The run in {folder} was begun with {first} {before.get(first)!r}, now it is "
            f"{now.get(first)!r}; "
            "resume with the same, or choose another folder with --out."
        )
