"""The contracts of layers and backbones notice what they are there to notice."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from sartor.testing import BackboneContract, LayerContract


class Sound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Mixes(Sound):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - x.mean(dim=0))


class Reshapes(Sound):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)[:, :2]


class Hides(Sound):
    """Outputs depend on something that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.randn(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.shift.to(x)


class Idle(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)


class DependsOnBatch(Sound):
    """Traced with a batch of two, it is wrong for others."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * (1.0 + (float(x.detach().sum()) > 0))


def contract(kind: type[nn.Module]) -> LayerContract:
    class Made(LayerContract):
        def layer(self) -> nn.Module:
            return kind()

        def inputs(self) -> Tensor:
            return torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]])

    return Made()


class TestSound(type(contract(Sound))):
    pass


BROKEN = (
    (Reshapes, "test_shapes"),
    (Mixes, "test_rows_do_not_mix"),
    (Hides, "test_weights_round_trip"),
    (Idle, "test_everything_learns"),
)


@pytest.mark.parametrize(("kind", "test"), BROKEN, ids=[k.__name__ for k, _ in BROKEN])
def test_broken_layers_are_noticed(kind: type[nn.Module], test: str) -> None:
    with pytest.raises(AssertionError):
        getattr(contract(kind), test)()


def test_a_format_that_is_said_to_fail_must_fail() -> None:
    class Wrong(type(contract(Sound))):
        exports = ("onnx",)
        refused: ClassVar = {"torch_export": "no such operator"}

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        Wrong().test_exports_with_equal_numbers("torch_export")


def test_a_format_must_not_be_forgotten() -> None:
    class Forgets(type(contract(Sound))):
        exports = ("onnx",)

    with pytest.raises(AssertionError):
        Forgets().test_exports_with_equal_numbers("onnx")


def test_layers_that_cannot_be_written_are_noticed() -> None:
    from sartor.core import ExportError

    with pytest.raises(ExportError):
        contract(DependsOnBatch).test_exports_with_equal_numbers("torch_export")


def test_a_model_of_timm_is_no_backbone_of_ours() -> None:
    class Theirs(BackboneContract):
        name = "test_vit"
        input_shape = (3, 160, 160)

    with pytest.raises(AssertionError):
        Theirs().test_timm_lists_it()
