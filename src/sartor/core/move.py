"""Moves: the composable changes that make a model cheaper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from sartor.core.family import Family
from sartor.core.recipe import Step
from sartor.core.target import Target
from sartor.core.task import Task

__all__ = ["Move", "MoveContext", "MoveReport", "MoveResult"]


@dataclass(frozen=True, kw_only=True)
class MoveReport:
    """What a change did: counts before and after, and what it left alone and why."""

    before: Mapping[str, float]
    after: Mapping[str, float]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MoveContext:
    """What a move may use.

    Attributes:
        task: for calibration data.
        target: where the result will run.
        folder: the result's own; files left here belong to it.
        deployed: the file that the unchanged model is deployed as, where there is one.
        recover: trains a model briefly, in place, against the teacher.
    """

    task: Task
    target: Target
    folder: Path
    deployed: Path | None
    recover: Callable[[nn.Module], None]


@dataclass(frozen=True, kw_only=True)
class MoveResult:
    """A changed model, and the step from which it can be made again."""

    model: nn.Module
    step: Step
    report: MoveReport


class Move(ABC):
    """One change of a model, with its settings.

    Attributes:
        id: stable name, written into recipes.
        runtimes: where the result can run.
        after: ids of the moves that it may follow; ``start`` stands for every move that begins a
            recipe. Empty: it begins a recipe itself.
        artifact: whether the result is a deployed file (and can only be the last move) and no
            longer a float module.
    """

    id: ClassVar[str]
    runtimes: ClassVar[frozenset[str]]
    after: ClassVar[frozenset[str]]
    artifact: ClassVar[bool] = False

    @abstractmethod
    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Change a copy of ``model``."""

    @classmethod
    @abstractmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Make the changed structure again; weights are loaded afterwards, an ``artifact`` is read
        from ``folder``.
        """
