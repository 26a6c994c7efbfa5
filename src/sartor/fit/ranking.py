"""The part of the selection data on which a run ranks what it made."""

from __future__ import annotations

from typing import Any

from sartor.core import Task

__all__ = ["RANKING_INPUTS", "ranking_batches"]

#: enough to tell configurations apart, few enough for hundreds of them
RANKING_INPUTS = 512


def ranking_batches(task: Task, count: int = RANKING_INPUTS) -> list[Any]:
    """Batches of the selection data, held in memory, until there are ``count`` inputs.

    Args:
        task: whose selection data are read.
        count: at least 1; fewer are given if there are no more.
    """
    batches: list[Any] = []
    seen = 0
    for batch in task.selection:
        batches.append(batch)
        seen += len(batch[0])
        if seen >= count:
            break
    return batches
