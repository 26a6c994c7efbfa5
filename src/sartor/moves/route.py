"""Routes in ``fit``: what the moves and the engines of all stitching methods share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from sartor.core import (
    Elastic,
    Engine,
    Family,
    Move,
    MoveContext,
    MoveReport,
    MoveResult,
    RecipeError,
    Step,
)
from sartor.core.schema import Shape, check_keys
from sartor.core.task import Task
from sartor.nn.sources import seeded
from sartor.stitch import StitchableNetwork

__all__ = ["RouteMove", "StitchingEngine"]


@dataclass(frozen=True, kw_only=True)
class RouteMove(Move):
    """Extract configuration ``index`` of a trained stitched net.

    Attributes:
        required: keys and types of :meth:`config`.
        optional: keys that it may also have.
    """

    required: ClassVar[Shape]
    optional: ClassVar[Shape] = {}
    runtimes: ClassVar[frozenset[str]] = frozenset({"eager", "compile", "onnxruntime"})
    after: ClassVar[frozenset[str]] = frozenset()

    index: int

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-ready settings of the network."""

    @classmethod
    @abstractmethod
    def assemble(
        cls, family: Family, example: Tensor, config: Mapping[str, Any]
    ) -> StitchableNetwork:
        """Make the network's structure from a recipe's settings; weights are loaded afterwards.

        Args:
            family: the models of the recipe.
            example: an input (1, ...).
            config: what :meth:`config` gave; keys and types are checked.
        """

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Extract the route; batch norms, if any, get the statistics of this route alone."""
        if not isinstance(model, Elastic):
            raise RecipeError(f"{self.id} takes a stitched net, got {type(model).__name__}.")
        route = model.extract(self.index).eval()
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in route.modules()):
            with seeded(0):  # of the order of the data
                update_bn(context.task.train, route)
            route.eval()
        plan = {"index": self.index, "route": model.configs[self.index].name}
        config = {**self.config(), "input_shape": list(context.task.input_shape)}
        before = {"params": float(sum(p.numel() for p in model.parameters()))}
        after = {"params": float(sum(p.numel() for p in route.parameters()))}
        report = MoveReport(before=before, after=after)
        return MoveResult(
            model=route, step=Step(move=self.id, config=config, plan=plan), report=report
        )

    @classmethod
    def network(cls, base: Family | nn.Module, step: Step) -> StitchableNetwork:
        """Make the structure of the network that a recipe's step was taken from."""
        kinds = {**cls.required, "input_shape": list}
        check_keys(step.config, f"The recipe's {cls.id}", kinds, cls.optional)
        if not isinstance(base, Family):
            raise RecipeError(f"The recipe stitches after another move; {cls.id} must come first.")
        config = {key: v for key, v in step.config.items() if key != "input_shape"}
        return cls.assemble(base, torch.zeros(1, *step.config["input_shape"]), config)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Stitch the family again and extract the same route."""
        check_keys(step.plan, f"The recipe's {cls.id}", {"index": int, "route": str}, {})
        net = cls.network(base, step)
        index, name = step.plan["index"], step.plan["route"]
        if not 0 <= index < len(net.configs) or net.configs[index].name != name:
            raise RecipeError(
                f"The recipe takes configuration {index!r} of {len(net.configs)} as {name!r}, "
                "which it is not; fit again."
            )
        return net.extract(index)


@dataclass(frozen=True, kw_only=True)
class StitchingEngine(Engine):
    """Stitches a family and sets the stitching layers by least squares.

    Attributes:
        init_samples: training inputs for that.
        seed: of the choice of those inputs, and of what each step trains.
    """

    init_samples: int = 100
    seed: int = 0

    @abstractmethod
    def stitch(self, family: Family, example: Tensor) -> StitchableNetwork:
        """Make the network's structure."""

    def build(self, family: Family, task: Task) -> StitchableNetwork:
        """See :class:`~sartor.core.Engine`."""
        net = self.stitch(family, task.example)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            batch = task.batch(self.init_samples)
        net.init_stitches(batch)
        return net
