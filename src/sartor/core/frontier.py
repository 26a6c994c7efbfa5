"""Frontiers: the models that no other model beats in both quality and cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sartor.core.budget import Budget, Constraint
from sartor.core.errors import ArtifactError, BudgetError, RecipeError
from sartor.core.files import read_json, write_json
from sartor.core.point import Point
from sartor.core.schema import Shape, check_keys
from sartor.core.target import Target

__all__ = ["FRONTIER_VERSION", "Frontier", "non_dominated"]

FRONTIER_VERSION = 1
_KEYS: Shape = {
    "version": int,
    "task": dict,
    "target": dict,
    "environment": dict,
    "settings": dict,
    "costs": list,
    "budget": str,
    "binding": list,
    "anchors": list,
    "points": list,
    "others": list,
    "notes": list,
    "seconds": (int, float),
    "complete": bool,
    "sha256": str,
}


def non_dominated(points: Sequence[Point], costs: Sequence[str]) -> list[Point]:
    """Keep the points that no other point equals or beats in accuracy and every cost; of equals,
    the first stays.

    Returns:
        The kept points, cheapest first.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.accuracy, *(p.values[c] for c in costs))):
        if not any(all(k.values[c] <= point.values[c] for c in costs) for k in kept):
            kept.append(point)
    return sorted(kept, key=lambda p: [p.values[c] for c in costs])


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What a run of ``fit`` hands over.

    Attributes:
        points: the non-dominated models, cheapest first.
        anchors: the family as it was given, smallest first; the last one is the reference of
            relative budgets.
        others: models that were made and are not on the frontier, each with the reason.
        costs: fields of a point by which it is judged beside accuracy; the first one orders the
            frontier.
        budget: what was asked for.
        notes: sentences that a reader of the report should see: moves that failed or were given up,
            data left out.
        complete: whether the run reached its end.
    """

    task: Mapping[str, Any]
    target: Target
    points: tuple[Point, ...]
    anchors: tuple[Point, ...]
    others: tuple[Point, ...] = ()
    costs: tuple[str, ...] = ("latency_ms",)
    budget: Budget = field(default_factory=Budget)
    environment: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    complete: bool = True

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __getitem__(self, id: str) -> Point:
        for point in self.points:
            if point.id == id:
                return point
        raise ArtifactError(
            f"The frontier has no point {id!r}; it has {', '.join(p.id for p in self.points)}."
        )

    @property
    def reference(self) -> dict[str, float]:
        """The largest anchor's numbers, to which budgets in ``%`` refer.

        Raises:
            ArtifactError: the frontier has no anchor.
        """
        if not self.anchors:
            raise ArtifactError("The frontier has no anchor to compare with; fit again.")
        return self.anchors[-1].values

    def best(self, budget: str | Budget | None = None) -> Point:
        """Return the most accurate point within a budget (the run's own if none is given); of
        equals, the cheapest.

        Raises:
            BudgetError: no point satisfies it; names the binding constraint and the nearest point.
        """
        asked = self.budget if budget is None else Budget.parse(budget)
        inside = [p for p in self.points if not asked.broken(p.values, self.reference)]
        if inside:
            return max(inside, key=lambda p: p.accuracy)
        if not self.points:
            raise BudgetError(
                "The frontier has no point yet; run `sartor fit` to its end, or go on with "
                "--resume."
            )
        near = min(self.points, key=lambda p: asked.excess(p.values, self.reference))
        worst = asked.broken(near.values, self.reference)[0]
        raise BudgetError(
            f"No point satisfies {str(asked)!r}: {worst.text} binds, and the nearest point, "
            f"{near.id}, has "
            f"{worst.quantity} {near.values[worst.field]:.6g} where "
            f"{worst.absolute(self.reference):.6g} is asked; "
            "loosen that bound or let `sartor fit` try more."
        )

    def binding(self, budget: str | Budget | None = None) -> list[Constraint]:
        """The constraints that stand between the best point and a more accurate one, worst first.

        Those without any one of which a more accurate point (or any at all) could be chosen; where
        only giving up several would help, those that the nearest more accurate point breaks.
        """
        asked = self.budget if budget is None else Budget.parse(budget)

        def reached(constraints: Sequence[Constraint]) -> float:
            trial = Budget(tuple(constraints))
            return max(
                (p.accuracy for p in self.points if not trial.broken(p.values, self.reference)),
                default=-math.inf,
            )

        now = reached(asked.constraints)
        alone = [
            c
            for c in asked.constraints
            if reached([o for o in asked.constraints if o is not c]) > now
        ]
        better = [p.values for p in self.points if p.accuracy > now]
        if alone or not better:
            return alone
        near = min(better, key=lambda values: asked.excess(values, self.reference))
        return asked.broken(near, self.reference)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, with a checksum over the rest."""
        body = {
            "version": FRONTIER_VERSION,
            "task": dict(self.task),
            "target": self.target.to_dict(),
            "environment": dict(self.environment),
            "settings": dict(self.settings),
            "costs": list(self.costs),
            "budget": str(self.budget),
            "binding": [c.text for c in self.binding()],
            "anchors": [p.to_dict() for p in self.anchors],
            "points": [p.to_dict() for p in self.points],
            "others": [p.to_dict() for p in self.others],
            "notes": list(self.notes),
            "seconds": self.seconds,
            "complete": self.complete,
        }
        return {**body, "sha256": _digest(body)}

    def save(self, folder: str | Path) -> Path:
        """Write ``frontier.json`` atomically and return its path."""
        path = Path(folder) / "frontier.json"
        write_json(path, self.to_dict())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Frontier:
        """Read a run's folder or its ``frontier.json``.

        Raises:
            ArtifactError: the file is missing, damaged or was changed by hand.
            RecipeError: keys or types are not those of a frontier.
        """
        path = Path(path)
        path = path / "frontier.json" if path.is_dir() else path
        value = read_json(path)
        check_keys(value, f"The frontier {path}", _KEYS, {})
        if value["version"] != FRONTIER_VERSION:
            raise ArtifactError(
                f"{path} has version {value['version']} and this sartor reads {FRONTIER_VERSION}; "
                "install its sartor."
            )
        if _digest({k: v for k, v in value.items() if k != "sha256"}) != value["sha256"]:
            raise ArtifactError(
                f"{path} was changed since it was written; restore it or fit again."
            )
        for key in ("costs", "binding", "notes"):
            if not all(isinstance(text, str) for text in value[key]):
                raise RecipeError(f"The frontier {path} has more than text in {key!r}; fit again.")
        folder = path.parent / "points"
        points: dict[str, Any] = {
            part: tuple(Point.from_dict(p, folder) for p in value[part])
            for part in ("anchors", "points", "others")
        }
        plain = {
            key: value[key] for key in ("task", "environment", "settings", "seconds", "complete")
        }
        target, budget = Target.from_dict(value["target"]), Budget.parse(value["budget"])
        return cls(
            **plain,
            **points,
            target=target,
            budget=budget,
            costs=tuple(value["costs"]),
            notes=tuple(value["notes"]),
        )


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()
