import pytest
from torch import nn

from sartor.compress.litv2 import HiLoConfig
from sartor.core import Family, RecipeError, Step, Task
from sartor.moves.litv2 import HiLoMove
from sartor.stitch import stitch
from sartor.testing import MoveContract, tiny_task, tiny_vit_family


class TestHiLo(MoveContract):
    def task(self) -> Task:
        return tiny_task()

    def move(self) -> HiLoMove:
        return HiLoMove(config=HiLoConfig(alpha=0.5))

    def base(self) -> nn.Module:
        return tiny_vit_family().models[2]

    def test_it_cannot_come_first(self) -> None:
        with pytest.raises(RecipeError, match="before any model is chosen"):
            HiLoMove.rebuild(tiny_vit_family(), Step(move="litv2"), None)

    def test_unknown_settings(self) -> None:
        step = Step(move="litv2", config={"alfa": 0.5})
        with pytest.raises(RecipeError, match="unknown key 'alfa'; did you mean 'alpha'"):
            HiLoMove.rebuild(self.base(), step, None)


class TestHiLoOnARoute(TestHiLo):
    """A route through two models: blocks of both, and a stitch between them."""

    def base(self) -> nn.Module:
        family: Family = tiny_vit_family()
        return stitch(family, self.task().example).extract(8)
