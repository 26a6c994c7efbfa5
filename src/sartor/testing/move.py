"""What every move promises."""

from __future__ import annotations

import copy
import json
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.core import Family, Move, MoveContext, MoveResult, Step, Target, Task
from sartor.core.target import TARGETS

__all__ = ["MoveContract"]


class MoveContract(ABC):
    """Inherit it in a class called ``Test...`` and say how to make the move and what it takes."""

    @abstractmethod
    def move(self) -> Move:
        """Make the move, with settings under which it changes something."""

    @abstractmethod
    def base(self) -> Family | nn.Module:
        """What ``rebuild`` starts from: the family, or the model before the move, untrained."""

    @abstractmethod
    def task(self) -> Task:
        """A tiny task of the model."""

    def model(self) -> nn.Module:
        """What ``apply`` takes: by default the base; the same at every call."""
        base = self.base()
        assert isinstance(base, nn.Module), "a move that starts from a family must define model()"
        return base

    def target(self) -> Target:
        """Where the result will run: by default the first runtime that the move names."""
        runtimes = type(self.move()).runtimes
        return Target.parse(next(t for t in TARGETS if t.split("/")[1] in runtimes))

    def test_says_where_it_stands(self) -> None:
        """Id, runtimes and order are given, and only an artifact may exclude the float runtimes."""
        kind = type(self.move())
        assert kind.id and kind.id == kind.id.lower() and " " not in kind.id
        assert kind.runtimes and kind.runtimes <= {t.split("/")[1] for t in TARGETS}
        assert kind.id not in kind.after, "a move does not follow itself"
        assert kind.artifact or "eager" in kind.runtimes

    def test_leaves_its_input_untouched(self) -> None:
        """The model that is given keeps its weights, shapes, modes and outputs."""
        model = self.model()
        before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
        with tempfile.TemporaryDirectory() as folder:
            _apply(self, model, Path(folder))
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), "weights changed"
        assert modes == [m.training for m in model.modules()], "modes changed"

    def test_rebuilds_from_json(self) -> None:
        """The step, through JSON, gives the same shapes and with the weights the same outputs."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            result = _apply(self, self.model(), folder)
            step = Step.from_dict(json.loads(json.dumps(result.step.to_dict(), allow_nan=False)))
            kind = type(self.move())
            assert step.move == kind.id
            rebuilt = kind.rebuild(self.base(), step, folder).eval()
            made = result.model.eval()
            if not kind.artifact:
                shapes = {k: v.shape for k, v in made.state_dict().items()}
                assert shapes == {k: v.shape for k, v in rebuilt.state_dict().items()}
                rebuilt.load_state_dict(made.state_dict())
            for inputs, _ in self.task().validation:
                with torch.inference_mode():
                    assert torch.equal(rebuilt(inputs), made(inputs)), "outputs differ"

    def test_reports_what_it_did(self) -> None:
        """Counts before and after name the same things, and something became less."""
        with tempfile.TemporaryDirectory() as folder:
            report = _apply(self, self.model(), Path(folder)).report
        assert report.before and report.before.keys() == report.after.keys()
        assert any(report.after[key] <= report.before[key] for key in report.before)


def _apply(contract: MoveContract, model: nn.Module, folder: Path) -> MoveResult:
    def recover(_model: Any) -> None:
        """Train nothing."""

    context = MoveContext(
        task=contract.task(),
        target=contract.target(),
        folder=folder,
        deployed=None,
        recover=recover,
    )
    return contract.move().apply(model, context)
