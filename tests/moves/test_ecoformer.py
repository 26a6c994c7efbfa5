import pytest
from torch import nn

from sartor.compress.ecoformer import EcoConfig
from sartor.core import RecipeError, Step, Task
from sartor.moves.ecoformer import EcoMove
from sartor.testing import MoveContract, tiny_task, tiny_vit_family


class TestEco(MoveContract):
    def task(self) -> Task:
        return tiny_task()

    def move(self) -> EcoMove:
        return EcoMove(config=EcoConfig(topk=5, num_anchors=9, steps=2, images=8))

    def base(self) -> nn.Module:
        return tiny_vit_family().models[2]

    def test_it_cannot_come_first(self) -> None:
        with pytest.raises(RecipeError, match="before any model is chosen"):
            EcoMove.rebuild(tiny_vit_family(), Step(move="ecoformer"), None)

    def test_unknown_settings(self) -> None:
        step = Step(move="ecoformer", config={"bitz": 5})
        with pytest.raises(RecipeError, match="unknown key 'bitz'"):
            EcoMove.rebuild(self.base(), step, None)
