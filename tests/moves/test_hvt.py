import pytest
from torch import nn

from sartor.compress.hvt import TokenPoolConfig
from sartor.core import RecipeError, Step, Task
from sartor.moves.hvt import TokenPoolMove
from sartor.testing import MoveContract, tiny_task, tiny_vit_family


class TestTokenPool(MoveContract):
    def task(self) -> Task:
        return tiny_task()

    def move(self) -> TokenPoolMove:
        return TokenPoolMove()

    def base(self) -> nn.Module:
        return tiny_vit_family().models[2]

    def test_it_cannot_come_first(self) -> None:
        with pytest.raises(RecipeError, match="before any model is chosen"):
            TokenPoolMove.rebuild(tiny_vit_family(), Step(move="hvt"), None)

    def test_tampered_settings(self) -> None:
        step = Step(move="hvt", config={"evry": 2})
        with pytest.raises(RecipeError, match="unknown key 'evry'; did you mean 'every'"):
            TokenPoolMove.rebuild(self.base(), step, None)
        step = Step(move="hvt", config={"after": ["0"]})
        with pytest.raises(RecipeError, match="blocks from 0"):
            TokenPoolMove.rebuild(self.base(), step, None)


class TestWithoutClassToken(TestTokenPool):
    def move(self) -> TokenPoolMove:
        return TokenPoolMove(config=TokenPoolConfig(after=(0,), keep_class_token=False))
