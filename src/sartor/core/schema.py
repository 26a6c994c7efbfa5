"""Checked reading of JSON objects: unknown or missing keys and wrong types are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sartor.core.errors import RecipeError, nearest

__all__ = ["Shape", "check_keys"]

#: legal keys of a JSON object and their types
Shape = Mapping[str, type | tuple[type, ...]]


def check_keys(value: Any, what: str, required: Shape, optional: Shape) -> None:
    """Check that ``value`` is an object with just the keys and types that ``what`` may have.

    Raises:
        RecipeError: names the first key that is unknown (with the nearest legal one), missing or of
            a wrong type.

    Example:
        >>> check_keys({"move": "prune"}, "a step", {"move": str}, {"config": dict})
    """
    if not isinstance(value, Mapping):
        raise RecipeError(
            f"{what} must be a JSON object, got {type(value).__name__}; restore the file or fit "
            "again."
        )
    legal = {**required, **optional}
    for key in value:
        if key not in legal:
            raise RecipeError(f"{what} has the unknown key {key!r}; {nearest(str(key), legal)}")
    for key, kind in legal.items():
        if key in required and key not in value:
            raise RecipeError(f"{what} lacks the key {key!r}; restore the file or fit again.")
        if key in value and not _fits(value[key], kind):
            raise RecipeError(
                f"{what} has a {type(value[key]).__name__} at {key!r}; restore the file or fit "
                "again."
            )


def _fits(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether the type is right; Python's bool is an int, JSON's is not."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
