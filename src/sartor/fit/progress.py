"""What a run says while it works; silent unless a front end listens."""

from __future__ import annotations

__all__ = ["Progress"]


class Progress:
    """Base of listeners; every method may be overridden, none needs to be."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of ``total`` parts begins; the one before has ended."""

    def advance(self, text: str = "") -> None:
        """One part of the stage is done; ``text`` says which, in a few words."""

    def say(self, text: str) -> None:
        """A sentence that the user should read."""
