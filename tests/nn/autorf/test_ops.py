import pytest
import torch

from sartor.core import FamilyError
from sartor.measure import count_params
from sartor.nn.autorf.ops import OPERATIONS, SPACES, NoiseIdentity, make_operation
from sartor.nn.sources import seeded


@pytest.mark.parametrize(
    ("name", "search", "net"),
    [
        *((f"max{k}", 576, 608) for k in (3, 5, 7)),
        *((f"avg{k}", 576, 576) for k in (3, 5, 7)),
        ("strip", 848, 848),
        ("noise", 0, 0),
        ("none", 0, 0),
        ("sep3", 800, 864),
        ("dil3", 400, 432),
        ("sep3_spatial", 42, 48),
        ("cbam", 248, 248),
        ("se", 128, 128),
        ("factorised3", 384, 416),
        ("factorised5", 640, 672),
        # counted by hand from the released layers; the card has none of these
        ("sep5", 1312, 1376),
        ("dil5", 656, 688),
        ("sep5_spatial", 106, 112),
        ("dil3_spatial", 19, 21),
        ("dil5_spatial", 51, 53),
        ("se_max", 128, 128),
        ("skip", 0, 0),
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


def test_spaces_have_the_published_sizes() -> None:
    sizes = {name: len(names) for name, names in SPACES.items()}
    pools = {"small": 4, "middle": 6, "large": 8, "fullpool": 9}
    assert sizes == {**pools, "fullconv": 12, "hybrid": 19, "autola": 9}
    assert all(len(set(names)) == len(names) and names[0] == "none" for names in SPACES.values())
    assert [name for name, names in SPACES.items() if "noise" not in names] == ["autola"]
    assert set(SPACES["hybrid"]) == {*SPACES["fullpool"], *SPACES["fullconv"]}
    assert {op for names in SPACES.values() for op in names} == set(OPERATIONS)


@pytest.mark.parametrize(
    ("name", "reach"),
    [
        *(("max3", 2), ("avg7", 4), ("dil3", 2), ("dil5", 4), ("sep3", 2), ("sep5", 4)),
        *(("factorised3", 1), ("factorised5", 2)),
        *(("dil3_spatial", 2), ("dil5_spatial", 4), ("sep3_spatial", 2), ("sep5_spatial", 4)),
    ],
)
def test_operations_see_as_far_as_their_windows(name: str, reach: int) -> None:
    """The farthest column whose change can change the middle, over several draws, as ReLUs and
    maxima let some pixels through in each; a pooling is followed by a 3 x 3 convolution.
    """
    changes = torch.zeros(13)
    with seeded(0):
        for _ in range(20):
            layer = make_operation(name, 4).eval()
            x = torch.randn(1, 4, 13, 13, requires_grad=True)
            (gradient,) = torch.autograd.grad(layer(x)[0, :, 6, 6].sum(), x)
            changes += gradient.abs().sum((0, 1, 2))
    columns = changes.nonzero().flatten()
    assert [int(columns.min()), int(columns.max())] == [6 - reach, 6 + reach]


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(FamilyError, match="no operation 'max9'"):
        make_operation("max9", 8)
    with pytest.raises(FamilyError, match="multiple of 4"):
        make_operation("max3", 6)
    with pytest.raises(FamilyError, match="at least 0"):
        NoiseIdentity(-1)
