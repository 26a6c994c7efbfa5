"""Engines: how a family becomes one elastic network, and what its training trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from sartor.core.elastic import Elastic
from sartor.core.family import Family
from sartor.core.move import Move
from sartor.core.task import Task

__all__ = ["Engine"]


class Engine(ABC):
    """The elastic stage of ``fit``. A frozen dataclass whose fields are settings of ``fit``.

    Everything here must come out the same in every process and in every resumed run: draw from the
    seed and the step, or from what the network's state holds.

    Attributes:
        id: slug of the method.
        prefix: of the ids of its points.
        trains: whether the network is trained at all.
        lr: highest learning rate of that training, if the user gives none.
    """

    id: ClassVar[str]
    prefix: ClassVar[str]
    trains: ClassVar[bool] = True
    lr: ClassVar[float] = 1e-3

    @abstractmethod
    def build(self, family: Family, task: Task) -> Elastic:
        """Make the network from copies of the models, ready to be trained.

        Raises:
            FamilyError: says why these models do not fit together.
        """

    @abstractmethod
    def take(self, index: int) -> Move:
        """The move that takes configuration ``index`` out of the network."""

    def prepare_step(self, net: Any, step: int) -> None:
        """Choose what training step ``step`` trains, before it."""
        return

    def after_backward(self, net: Any, step: int) -> None:
        """Learn from the gradients of training step ``step``, before the optimiser uses them."""
        return

    def shortlist(self, net: Any) -> Sequence[int] | None:
        """Configurations that the training itself found promising; ``None``: score all of them."""
        return None
