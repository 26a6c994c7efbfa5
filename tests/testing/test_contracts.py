"""The contracts notice what they are there to notice."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sartor.core import Elastic, Family, Move, MoveReport, MoveResult, Step, Task
from sartor.testing import ElasticContract, MoveContract, tiny_task


class Sound(Elastic):
    """Two layers, of which a configuration runs one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.chosen = self.layers[0]

    @property
    def configs(self) -> range:
        return range(2)

    def set_config(self, index: int) -> None:
        if index not in range(2):
            raise IndexError(index)
        self._modules["chosen"] = self.layers[index]

    def flops(self, index: int) -> int:
        return 18

    def extract(self, index: int) -> nn.Module:
        return nn.Sequential(copy.deepcopy(self.layers[index]))

    def forward(self, x: Tensor) -> Tensor:
        return self.chosen(x)


class Copies(Sound):
    def set_config(self, index: int) -> None:
        super().set_config(index)
        self._modules["chosen"] = copy.deepcopy(self.layers[index])


class Shares(Sound):
    def extract(self, index: int) -> nn.Module:
        return nn.Sequential(self.layers[index])


class Forgets(Sound):
    def extract(self, index: int) -> nn.Module:
        self.set_config(index)
        return super().extract(index)


class RunsAll(Sound):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            layer(x)
        return self.chosen(x)


class TakesAnything(Sound):
    def set_config(self, index: int) -> None:
        super().set_config(index % 2)


class SaysNothing(Sound):
    @property
    def configs(self) -> list[str]:
        return ["same", "same"]


def contract(kind: type[Elastic]) -> ElasticContract:
    class Made(ElasticContract):
        def elastic(self) -> Elastic:
            torch.manual_seed(0)
            return kind().eval()

        def inputs(self) -> Tensor:
            return torch.ones(2, 3)

        def references(self) -> dict[int, nn.Module]:
            return {1: self.elastic().layers[1]}

    return Made()


class TestSound(type(contract(Sound))):
    pass


BROKEN = (
    (Copies, "test_set_config_allocates_nothing", "set_config runs"),
    (Shares, "test_extract_has_equal_outputs_and_weights_of_its_own", "shares storage"),
    (Forgets, "test_extract_has_equal_outputs_and_weights_of_its_own", "changed the configuration"),
    (RunsAll, "test_forward_runs_only_what_is_used", "runs more"),
    (TakesAnything, "test_set_config_refuses_what_is_not_there", "is accepted"),
    (SaysNothing, "test_configurations_are_stable_and_unique", "repeat"),
)


@pytest.mark.parametrize(
    ("kind", "test", "message"), BROKEN, ids=[k.__name__ for k, _, _ in BROKEN]
)
def test_broken_elastics_are_noticed(kind: type[Elastic], test: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        getattr(contract(kind), test)()


class Spoils(Move):
    """A move that changes the model it is given and forgets how it was cut."""

    id, runtimes, after = "spoils", frozenset({"eager"}), frozenset({"anchor"})

    def apply(self, model: nn.Module, context: object) -> MoveResult:
        with torch.no_grad():
            model[1].weight.zero_()
        cut = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
        report = MoveReport(before={"params": 1.0}, after={"params": 2.0})
        return MoveResult(model=cut, step=Step(move="spoils"), report=report)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: object) -> nn.Module:
        return base


class SpoilsContract(MoveContract):
    def move(self) -> Move:
        return Spoils()

    def base(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def task(self) -> Task:
        return tiny_task()


@pytest.mark.parametrize(
    "test",
    ["test_leaves_its_input_untouched", "test_rebuilds_from_json", "test_reports_what_it_did"],
)
def test_a_broken_move_is_noticed(test: str) -> None:
    made: Callable[[], None] = getattr(SpoilsContract(), test)
    with pytest.raises(AssertionError):
        made()
