import pytest
import torch
from torch import nn

from sartor.core import FamilyError
from sartor.stitch.plan import StitchConfig
from sartor.stitch.taps import collect, plan_taps, token_map
from sartor.stitch.two_way import enumerate_two_way

OUT = (9, 14, 19, 23)


def on(number: int) -> list[tuple[int, int | None]]:
    return plan_taps(enumerate_two_way(12, 24, last=True)[number], (12, 24), OUT)


def test_taps_of_the_anchors() -> None:
    assert on(0) == [(4, 4), (7, 7), (9, 9), (11, 11)]
    assert on(1) == [(9, None), (14, None), (19, None), (23, None)]
    half = plan_taps(StitchConfig(anchors=(0,)), (12, 24), (5, 11, 17, 23))
    assert half == [(2, 2), (5, 5), (8, 8), (11, 11)]


def test_taps_of_routes() -> None:
    # small 0..4, layer 4 at position 5, large 10..23: block 4 stands for 9, through its own layer
    assert on(6) == [(5, None), (6 + 4, None), (6 + 9, None), (6 + 13, None)]
    # large 0..9, layer, small 5..11
    assert on(18) == [(9, None), (11 + 2, 7), (11 + 4, 9), (11 + 6, 11)]
    # large 0..1, layer, small 1..1, layer, large 4..23
    assert on(25) == [(5 + o - 4, None) for o in OUT]


@pytest.mark.parametrize("depths", [(12, 24), (12, 12), (4, 8), (3, 6), (4, 6), (5, 7)])
def test_every_route_has_every_tap_once_and_in_order(depths: tuple[int, int]) -> None:
    indices = tuple(range(depths[1]))
    for config in enumerate_two_way(*depths, on_mismatch="adjust"):
        taps = plan_taps(config, depths, indices)
        assert len(taps) == len(indices)
        assert [at for at, _ in taps] == sorted(at for at, _ in taps)
        for out in indices:  # alone, it is found at the same place
            assert plan_taps(config, depths, (out,)) == [taps[out]]


@pytest.mark.parametrize(
    ("out_indices", "message"),
    [
        ((3, 3), r"increasing, got \[3, 3\]"),
        ((5, 2), "increasing"),
        ((), "at least one and increasing"),
        ((0, 24), "0 to 23"),
        ((-1, 3), "0 to 23"),
    ],
)
def test_illegal_indices(out_indices: tuple[int, ...], message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        plan_taps(StitchConfig(anchors=(1,)), (12, 24), out_indices)


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [
        (197, (224, 224), (14, 14)),
        (196, (224, 224), (14, 14)),
        (200, (224, 224), (14, 14)),  # a class token and registers
        (1025, (512, 512), (32, 32)),
        (17, (8, 8), (4, 4)),
        (1 + 8, (16, 32), (2, 4)),
    ],
)
def test_tokens_become_maps(tokens: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    features = torch.randn(2, tokens, 3, generator=torch.Generator().manual_seed(0))
    made = token_map(features, *size)
    assert made.shape == (2, 3, *grid)
    last = features[:, -1]
    assert torch.equal(made[:, :, -1, -1], last)
    assert torch.equal(made[:, :, 0, 1], features[:, tokens - grid[0] * grid[1] + 1])


def test_features_that_are_no_tokens() -> None:
    for shape in ((2, 3, 4, 4), (2, 0, 3)):
        with pytest.raises(FamilyError, match="dense taps need a plain ViT"):
            token_map(torch.zeros(shape), 8, 8)


def test_nothing_runs_after_the_last_tap() -> None:
    ran: list[int] = []

    class Step(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ran.append(self.number)
            return x + 1

    double = nn.Linear(2, 2)
    with torch.no_grad():
        double.weight.copy_(2 * torch.eye(2))
        double.bias.zero_()
    inputs = torch.zeros(1, 16, 2)
    steps = [Step(0), Step(1), Step(2), Step(3)]
    # the example has 16 tokens, as inputs of 2 x 8 pixels in patches of 1 have
    maps = collect(steps, [(1, None), (1, double), (2, None)], inputs.reshape(1, 1, 16, 2)[:, 0])
    assert ran == [0, 1, 2]
    assert [m.unique().item() for m in maps] == [2, 4, 3]
