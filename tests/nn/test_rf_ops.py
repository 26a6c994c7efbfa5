import pytest
import torch

from sartor.core import FamilyError
from sartor.measure import count_params
from sartor.nn.rf_ops import OPERATIONS, SPACES, NoiseIdentity, make_operation


@pytest.mark.parametrize(
    ("name", "search", "net"),
    [
        *((f"max{k}", 576, 608) for k in (3, 5, 7)),
        *((f"avg{k}", 576, 576) for k in (3, 5, 7)),
        ("strip", 848, 848),
        ("noise", 0, 0),
        ("none", 0, 0),
    ],
)
def test_parameters_are_the_card_s(name: str, search: int, net: int) -> None:
    counts = [count_params(make_operation(name, 16, affine=affine)) for affine in (False, True)]
    assert counts == [search, net]


@pytest.mark.parametrize("name", OPERATIONS)
def test_maps_keep_their_size(name: str) -> None:
    assert make_operation(name, 8)(torch.randn(2, 8, 6, 9)).shape == (2, 8, 6, 9)


def test_noise_is_of_training_alone() -> None:
    layer, x = NoiseIdentity(), 3 * torch.randn(64, 64)
    added = layer.train()(x) - x
    assert added.std().item() == pytest.approx(x.std().item(), rel=0.1)
    assert abs(added.mean().item()) < 0.2
    assert layer.eval()(x) is x


def test_none_is_zero() -> None:
    assert make_operation("none", 4)(torch.ones(1, 4, 2, 2)).abs().sum() == 0


def test_spaces_grow() -> None:
    assert [len(names) for names in SPACES.values()] == [4, 6, 8, 9]
    assert all("none" in names and "noise" in names for names in SPACES.values())


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(FamilyError, match="no operation 'max9'"):
        make_operation("max9", 8)
    with pytest.raises(FamilyError, match="multiple of 4"):
        make_operation("max3", 6)
    with pytest.raises(FamilyError, match="at least 0"):
        NoiseIdentity(-1)
