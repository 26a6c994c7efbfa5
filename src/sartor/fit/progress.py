"""What a run says while it works; silent unless a front end listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["Progress", "each", "telling"]

T = TypeVar("T")


class Progress:
    """Base of listeners; every method may be overridden, none needs to be."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of ``total`` parts begins; the one before has ended."""

    def advance(self, text: str = "") -> None:
        """One part of the stage is done; ``text`` says which, in a few words."""

    def say(self, text: str) -> None:
        """A sentence that the user should read."""


#: who hears of loops over :func:`each`
_LISTENER: ContextVar[Progress | None] = ContextVar("listener", default=None)


@contextmanager
def telling(progress: Progress) -> Iterator[None]:
    """Tell someone how far the loops over :func:`each` inside are.

    Args:
        progress: hears of each stage and each part of it.
    """
    token = _LISTENER.set(progress)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def each(items: Iterable[T], stage: str = "seeds") -> Iterator[T]:
    """Give the items, and tell when each of them is done.

    Args:
        items: what a run goes through, such as its seeds.
        stage: what they are called.

    Example:
        >>> list(each((0, 1, 2)))
        [0, 1, 2]
    """
    parts, progress = list(items), _LISTENER.get() or Progress()
    progress.begin(stage, len(parts))
    for part in parts:
        yield part
        progress.advance(str(part))
