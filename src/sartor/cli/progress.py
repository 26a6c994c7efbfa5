"""Progress bars of a run in the terminal, on standard error, so that standard output stays
clean.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column

from sartor.fit import Progress

__all__ = ["TerminalProgress"]


class TerminalProgress(Progress):
    """One bar a stage; use as a context manager."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, ratio=1)),
            console=self.console,
        )
        self.stage: Any = None

    def __enter__(self) -> TerminalProgress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def begin(self, stage: str, total: int) -> None:
        """Show a new bar; a stage without parts shows none."""
        self._end()
        self.stage = self.bars.add_task(stage, total=total, text="") if total else None

    def advance(self, text: str = "") -> None:
        """Move the bar by one."""
        if self.stage is not None:
            self.bars.update(self.stage, advance=1, text=text)

    def say(self, text: str) -> None:
        """Print a sentence above the bars."""
        self.console.print(text, highlight=False, markup=False)

    def _end(self) -> None:
        if self.stage is not None:
            self.bars.update(self.stage, text="")
            self.bars.stop_task(self.stage)
