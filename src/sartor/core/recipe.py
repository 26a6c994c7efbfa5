"""Recipes: how a model was made, as JSON, so that it can be made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sartor.core.errors import RecipeError
from sartor.core.schema import check_keys

__all__ = ["RECIPE_VERSION", "Recipe", "Step"]

RECIPE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Step:
    """One applied move: its id, the settings it was given and what it decided by itself
    (``plan``).
    """

    move: str
    config: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # as JSON has them (lists for tuples), so that a step equals itself after a round trip
        for name in ("config", "plan"):
            object.__setattr__(self, name, json.loads(json.dumps(getattr(self, name))))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {"move": self.move, "config": dict(self.config), "plan": dict(self.plan)}

    @classmethod
    def from_dict(cls, value: Any) -> Step:
        """Inverse of :meth:`to_dict`."""
        check_keys(value, "The recipe's step", {"move": str}, {"config": dict, "plan": dict})
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The family that a model comes from and the moves that were applied, in order.

    Example:
        >>> base = {"name": "a", "source": {"kind": "module"}, "split": None}
        >>> recipe = Recipe(base=(base,), steps=(Step(move="anchor"),))
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
    """

    base: tuple[Mapping[str, Any], ...]
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", tuple(json.loads(json.dumps(list(map(dict, self.base))))))

    def then(self, step: Step) -> Recipe:
        """This recipe with one more step."""
        return Recipe(base=self.base, steps=(*self.steps, step))

    @property
    def moves(self) -> tuple[str, ...]:
        """Ids of the moves, in order."""
        return tuple(step.move for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "version": RECIPE_VERSION,
            "base": [dict(b) for b in self.base],
            "steps": [s.to_dict() for s in self.steps],
        }

    @classmethod
    def from_dict(cls, value: Any) -> Recipe:
        """Inverse of :meth:`to_dict`.

        Raises:
            RecipeError: keys are unknown or missing, or the version is newer than this package.
        """
        check_keys(value, "The recipe", {"version": int, "base": list, "steps": list}, {})
        if value["version"] != RECIPE_VERSION:
            raise RecipeError(
                f"The recipe has version {value['version']} and this sartor reads "
                f"{RECIPE_VERSION}; install the sartor that wrote it."
            )
        for entry in value["base"]:
            check_keys(
                entry,
                "The recipe's base",
                {"name": str, "source": dict},
                {"split": (dict, type(None))},
            )
        return cls(
            base=tuple(value["base"]), steps=tuple(Step.from_dict(step) for step in value["steps"])
        )
