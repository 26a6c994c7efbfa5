import pytest
from torch import nn

from sartor.compress.spvit import SPViTConfig
from sartor.core import RecipeError, Step, Task
from sartor.moves.spvit import SPViTMove
from sartor.testing import MoveContract, tiny_task, tiny_vit_family


class TestSPViT(MoveContract):
    def task(self) -> Task:
        return tiny_task()

    def move(self) -> SPViTMove:
        return SPViTMove(config=SPViTConfig(steps=12, arch_lr=0.3, lam_rel=100.0))

    def base(self) -> nn.Module:
        return tiny_vit_family().models[2]

    def test_it_cannot_come_first(self) -> None:
        with pytest.raises(RecipeError, match="before any model is chosen"):
            SPViTMove.rebuild(tiny_vit_family(), Step(move="spvit"), None)

    def test_unknown_settings(self) -> None:
        step = Step(move="spvit", config={"ratios": 5})
        with pytest.raises(RecipeError, match="unknown key 'ratios'"):
            SPViTMove.rebuild(self.base(), step, None)
