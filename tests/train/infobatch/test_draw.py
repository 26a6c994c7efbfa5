"""What an epoch keeps: the card's counts, every subset as often as another, exact weights."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from sartor.core import TrainingError
from sartor.train import InfoBatchSettings
from sartor.train.infobatch.draw import Draw, _subset, draw_epoch, grouped


def draw(scores: Tensor, seed: int = 0, **settings) -> Draw:
    chosen = InfoBatchSettings(**settings)
    return draw_epoch(grouped(scores, chosen), chosen.shares, torch.Generator().manual_seed(seed))


def kept_weights(one: Draw) -> Tensor:
    return one.weights[one.groups[one.order.long()].int()]


def test_card_sixteen_fixed_scores() -> None:
    one = draw(torch.arange(16) / 16)
    assert grouped(torch.arange(16) / 16, InfoBatchSettings()).tolist() == [0] * 8 + [1] * 8
    assert len(one.order) == 12 and one.weights.tolist() == [2.0, 1.0]
    order = one.order.tolist()
    assert set(range(8, 16)) < set(order) and len({*order} & set(range(8))) == 4


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.9])
def test_weights_of_what_is_kept_sum_up_to_the_group(size: int, ratio: float) -> None:
    scores = torch.cat([torch.zeros(size), torch.ones(3)])
    one = draw(scores, prune_ratio=ratio)
    exact = (1 - Fraction(str(ratio))) * size
    kept = max(1, math.floor(exact))
    assert len(one.order) == kept + 3
    assert one.weights[0] == size / kept
    torch.testing.assert_close(kept_weights(one).sum(), torch.tensor(size + 3.0).double())
    if exact == kept:  # the paper's weight
        assert float(one.weights[0]) == pytest.approx(1 / (1 - ratio))


def test_seven_of_which_three_are_kept_weigh_seven() -> None:
    one = draw(torch.cat([torch.zeros(7), torch.ones(7)]))  # 3 * 2 = 6 in the official code
    low = one.order[one.order < 7]
    assert len(low) == 3 and one.weights[0] == 7 / 3


def test_expected_gradient_by_enumeration() -> None:
    """Every kept set of the group is drawn, each as often as another, and their mean is exact."""
    gradients = torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).double()
    scores = torch.tensor([0.1, 0.2, 9.0, 0.3, 8.0, 0.1, 7.0, 0.4])  # five below the mean
    low = [0, 1, 3, 5, 7]
    counts: dict[tuple[int, ...], int] = {}
    sums = {}
    draws = 4000
    for seed in range(draws):
        one = draw(scores, seed)
        kept = tuple(sorted(one.order.tolist()))
        counts[kept] = counts.get(kept, 0) + 1
        sums[kept] = (kept_weights(one).unsqueeze(1) * gradients[one.order.long()]).sum(0)
    wanted = {tuple(sorted((2, 4, 6, *pair))) for pair in itertools.combinations(low, 2)}
    assert set(counts) == wanted and len(wanted) == 10
    torch.testing.assert_close(
        torch.stack(list(sums.values())).mean(0), gradients.sum(0), rtol=0, atol=1e-12
    )
    expected = draws / 10
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 21.67  # 99 % of a fair draw with 9 degrees of freedom


def test_kept_samples_stand_at_every_place_alike() -> None:
    """A kept easy sample comes no earlier or later in the epoch than a hard one."""
    scores = torch.cat([torch.zeros(6), torch.ones(6)])
    places = {False: [], True: []}
    for seed in range(2000):
        for place, index in enumerate(draw(scores, seed).order.tolist()):
            places[index < 6].append(place)
    for found in places.values():
        mean = sum(found) / len(found)
        error = 2.6 / len(found) ** 0.5  # places 0..8 deviate by 2.58
        assert abs(mean - 4) < 4 * error


@pytest.mark.parametrize("seed", [0, 7])
def test_nothing_pruned_is_the_plain_shuffled_epoch(seed: int) -> None:
    plain = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    scores = torch.rand(100, generator=torch.Generator().manual_seed(1))
    for one in (draw(scores, seed, prune_ratio=0.0), draw(torch.full((100,), 0.1), seed)):
        assert torch.equal(one.order.long(), plain) and set(kept_weights(one).tolist()) == {1.0}


@pytest.mark.parametrize("value", [0.1, 1 / 3, 7.0, 1e-8])
@pytest.mark.parametrize("count", [3, 1_000_003])
def test_equal_scores_prune_nothing(value: float, count: int) -> None:
    assert bool((grouped(torch.full((count,), value), InfoBatchSettings()) == 1).all())


def test_two_levels() -> None:
    levels = ((0.2, 0.25), (0.85, 0.5))
    one = draw(torch.arange(100.0), quantiles=levels)
    below, between, above = (
        sum(low <= index < high for index in one.order.tolist())
        for low, high in ((0, 20), (20, 85), (85, 100))
    )
    assert (below, between, above) == (5, 32, 15)
    assert one.weights.tolist() == [4.0, 65 / 32, 1.0]


@pytest.mark.parametrize(
    ("epochs", "settings", "pruned"),
    [
        (8, {}, list(range(7))),
        (4, {"anneal_fraction": 0.5}, [0, 1]),
        (10, {}, list(range(9))),
        (10, {"anneal_fraction": 0.0}, []),
        (3, {"anneal_fraction": 1.0, "warmup_epochs": 2}, [2]),
    ],
)
def test_which_epochs_prune(epochs: int, settings: dict, pruned: list[int]) -> None:
    chosen = InfoBatchSettings(**settings)
    assert [epoch for epoch in range(epochs) if chosen.prunes(epoch, epochs)] == pruned


@pytest.mark.parametrize(
    "wrong",
    [
        {"prune_ratio": 1.0},
        {"prune_ratio": -0.1},
        {"anneal_fraction": 1.1},
        {"anneal_fraction": -0.1},
        {"warmup_epochs": -1},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(TrainingError, match=r"prune_ratio in \[0, 1\), an anneal_fraction"):
        InfoBatchSettings(**wrong)


@pytest.mark.parametrize(
    "wrong", [((0.5, 0.0),), ((0.5, 1.5),), ((0.0, 0.5),), ((0.6, 0.5), (0.4, 0.5))], ids=str
)
def test_quantiles_out_of_order_are_refused(wrong: tuple) -> None:
    with pytest.raises(TrainingError, match="rising quantiles"):
        InfoBatchSettings(quantiles=wrong)


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (5, 1), (5, 4), (1000, 137), (100_000, 65_536)]
)
def test_subsets_have_exactly_the_size(size: int, count: int) -> None:
    for seed in range(20):
        chosen = _subset(size, count, torch.Generator().manual_seed(seed))
        assert chosen.shape == (size,) and int(chosen.sum()) == count
