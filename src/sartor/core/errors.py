"""The errors that reach a user.

Each says in one sentence what was given, what is allowed and what to do. Each child also inherits
the builtin that Python programmers would catch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "BudgetError",
    "DataError",
    "ExportError",
    "FamilyError",
    "MissingPackageError",
    "NoEffectError",
    "RecipeError",
    "SartorError",
    "TargetError",
    "TrainingError",
    "nearest",
]


class SartorError(Exception):
    """Base of every error that sartor raises on purpose."""


class BudgetError(SartorError, ValueError):
    """A budget that cannot be read, or that no point satisfies."""


class TargetError(SartorError, ValueError):
    """A target that does not exist or is not available on this machine."""


class FamilyError(SartorError, ValueError):
    """Models that are unknown or do not form a family."""


class DataError(SartorError, ValueError):
    """Data that cannot be read or does not fit the task."""


class RecipeError(SartorError, ValueError):
    """A recipe or configuration with unknown or illegal entries."""


class ArtifactError(SartorError, ValueError):
    """A file of a run that is missing, damaged or was changed."""


class TrainingError(SartorError, RuntimeError):
    """Training that cannot go on."""


class ExportError(SartorError, RuntimeError):
    """A model that cannot be written in the asked format with equal numbers."""


class NoEffectError(SartorError, ValueError):
    """A change that was asked for and changed nothing."""


class MissingPackageError(SartorError, ImportError):
    """An optional package that is needed and not installed."""


def nearest(given: str, allowed: Iterable[str], *, count: int = 3) -> str:
    """Return a clause that names the allowed words closest to ``given``.

    Example:
        >>> nearest("latencie", ["latency", "size"])
        "did you mean 'latency'?"
    """
    options = list(allowed)
    close = difflib.get_close_matches(given, options, n=count, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(word) for word in close)}?"
    return f"allowed: {', '.join(sorted(options)[:12])}."
