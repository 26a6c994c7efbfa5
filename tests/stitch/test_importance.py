import math

import pytest
import torch
from torch import Tensor, nn

from sartor.core import RecipeError, TrainingError
from sartor.stitch.importance import StitchImportance, connection_sensitivity, flops_intervals
from sartor.stitch.importance_sampler import ImportanceSampler


def parameter(value: float, grad: float | None) -> Tensor:
    made = nn.Parameter(torch.tensor([value]))
    made.grad = None if grad is None else torch.tensor([grad])
    return made


def scored(scores: list[float]) -> StitchImportance:
    importance = StitchImportance(len(scores), warmup_visits=0)
    for index, score in enumerate(scores):
        importance.update(index, [parameter(1.0, score)])
    return importance


# --- the score ----------------------------------------------------------------------------------


def test_the_score_of_the_card() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    inputs = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    loss = ((inputs @ weight.T - targets) ** 2).mean()
    loss.backward()
    assert loss.item() == 12.3125
    assert torch.equal(weight.grad, torch.tensor([[0, -3.75], [2.25, 5.75]]))
    assert connection_sensitivity([weight]) == 25.875
    assert connection_sensitivity([weight], grad_scale=2.0) == 25.875 / 2


def test_parameters_without_gradient_do_not_count() -> None:
    assert connection_sensitivity([parameter(2.0, -3.0), parameter(5.0, None)]) == 6.0
    with pytest.raises(TrainingError, match="No parameter has a gradient"):
        connection_sensitivity([parameter(5.0, None)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    importance = StitchImportance(2, warmup_visits=0)
    with pytest.raises(TrainingError, match=f"importance of the configuration is {bad}"):
        importance.update(0, [parameter(1.0, bad)])
    assert not importance.scored.any() and importance.scores() == [0.0, 0.0]


# --- the average --------------------------------------------------------------------------------


def test_the_first_score_counts_in_full_then_the_average_moves() -> None:
    importance = StitchImportance(2, momentum=0.9, warmup_visits=0)
    importance.update(1, [parameter(1.0, 4.0)])
    assert importance.scores() == [0.0, 4.0]
    importance.update(1, [parameter(1.0, -2.0)])
    assert importance.scores()[1] == pytest.approx(0.9 * 4 + 0.1 * 2)
    assert importance.scored.tolist() == [False, True] and not importance.complete


def test_scores_of_the_warm_up_do_not_count() -> None:
    importance = StitchImportance(2, warmup_visits=2)
    for index in (0, 0, 0, 1, 1):
        assert not importance.warm
        importance.update(index, [parameter(1.0, 100.0)])
    assert importance.warm and not importance.scored.any()
    importance.update(0, [parameter(1.0, 3.0)])
    assert importance.scores() == [3.0, 0.0] and importance.seen.tolist() == [4, 2]


def test_it_is_a_part_of_the_state() -> None:
    importance, other = scored([3.0, 1.0, 2.0]), StitchImportance(3, warmup_visits=0)
    other.load_state_dict(importance.state_dict())
    for one in (importance, other):
        one.update(1, [parameter(1.0, 5.0)])
    assert other.scores() == importance.scores() and other.complete


# --- the choice ---------------------------------------------------------------------------------


def test_intervals_are_equally_wide() -> None:
    assert flops_intervals([0, 9, 10, 20, 29, 30], 3) == [[0, 1], [2], [3, 4, 5]]
    assert flops_intervals([0, 1, 30], 3) == [[0, 1], [2]]  # the middle one is empty
    assert flops_intervals([5, 5], 3) == [[0, 1]]
    with pytest.raises(RecipeError, match="at least 1 interval of FLOPs, got 0"):
        flops_intervals([1], 0)


def test_the_best_of_each_interval_and_what_is_kept_anyway() -> None:
    importance = scored([9.0, 1.0, 2.0, 7.0, 8.0, 3.0])
    flops = [0, 9, 5, 20, 29, 30]
    assert importance.select(flops, 2) == [0, 4]
    assert importance.select(flops, 2, top_k=2) == [0, 2, 3, 4]
    assert importance.select(flops, 2, keep=(0, 5)) == [0, 2, 4, 5]


def test_choosing_before_every_configuration_has_a_score_is_refused() -> None:
    importance = StitchImportance(4, warmup_visits=0)
    importance.update(2, [parameter(1.0, 1.0)])
    with pytest.raises(RecipeError, match="configurations 0, 1, 3 have no score yet; train on"):
        importance.select([1, 2, 3, 4], 2)


def test_illegal_numbers_are_refused() -> None:
    importance = scored([1.0, 2.0])
    with pytest.raises(RecipeError, match="At least 1 configuration"):
        importance.select([1, 2], 2, top_k=0)
    for verb in (lambda: importance.select([1], 2), lambda: ImportanceSampler(importance, [1])):
        with pytest.raises(RecipeError, match="2 configurations and the FLOPs of 1"):
            verb()
    for index in (-1, 2):
        with pytest.raises(RecipeError, match=f"no configuration {index}; choose among 0 to 1"):
            importance.update(index, [])
    for bad in ((0, 0.9, 2), (3, 1.0, 2), (3, -0.1, 2), (3, 0.9, -1)):
        with pytest.raises(RecipeError, match="Importance takes num_stitches >= 1"):
            StitchImportance(bad[0], bad[1], warmup_visits=bad[2])
    for temperature, mix in ((0.0, 0.3), (-1.0, 0.3), (1.0, 1.1), (1.0, -0.1)):
        with pytest.raises(RecipeError, match="temperature above 0"):
            ImportanceSampler(importance, [1, 2], temperature, mix)


# --- sampling -----------------------------------------------------------------------------------

FLOPS = [10, 30, 12, 14, 20, 22, 28]


def test_probabilities_sum_to_one_and_have_a_floor() -> None:
    importance = scored([5.0, 1.0, 9.0, 2.0, 100.0, 0.0, 3.0])
    for mix in (0.0, 0.3, 1.0):
        p = ImportanceSampler(importance, FLOPS, uniform_mix=mix).probabilities()
        assert float(p.sum()) == pytest.approx(1) and bool((p >= mix / 7 - 1e-12).all())
    p = ImportanceSampler(importance, FLOPS, temperature=0.05, uniform_mix=0.0).probabilities()
    # each interval keeps its share; within it the most important one takes nearly all
    for members in flops_intervals(FLOPS, 3):
        assert float(p[members].sum()) == pytest.approx(len(members) / 7)
        best = max(members, key=lambda i: importance.scores()[i])
        assert float(p[best]) > 0.99 * len(members) / 7


def test_the_formula_within_one_interval() -> None:
    p = ImportanceSampler(scored([1.0, 3.0]), [5, 5]).probabilities()
    high = math.e / (math.e + math.exp(-1))  # z = -1 and 1
    assert float(p[1]) == pytest.approx(0.7 * high + 0.15)


def test_constant_importance_gives_the_uniform_distribution() -> None:
    p = ImportanceSampler(scored([0.1] * 7), FLOPS).probabilities()
    assert torch.allclose(p, torch.full((7,), 1 / 7, dtype=torch.float64), atol=1e-12)


def test_rounds_until_every_configuration_has_a_score() -> None:
    importance = StitchImportance(7, warmup_visits=2)
    sampler = ImportanceSampler(importance, FLOPS, seed=3)
    drawn = []
    for step in range(21):
        assert not importance.complete
        drawn.append(sampler.draw(step))
        importance.update(drawn[-1], [parameter(1.0, 1.0)])
    assert importance.complete
    rounds = [drawn[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(r) == list(range(7)) for r in rounds) and rounds[0] != rounds[1]


def test_draws_follow_seed_step_and_importance_alone() -> None:
    importance = scored([5.0, 1.0, 9.0, 2.0, 100.0, 0.0, 3.0])
    first, again = (ImportanceSampler(importance, FLOPS, seed=0) for _ in range(2))
    torch.manual_seed(1)
    drawn = [first.draw(step) for step in range(1500)]
    torch.manual_seed(2)
    assert drawn == [again.draw(step) for step in range(1500)]
    assert drawn != [ImportanceSampler(importance, FLOPS, seed=1).draw(s) for s in range(1500)]
    shares = torch.bincount(torch.tensor(drawn), minlength=7) / 1500
    assert torch.allclose(shares.double(), first.probabilities(), atol=0.04)
    importance.update(5, [parameter(1.0, 9000.0)])
    assert drawn != [first.draw(step) for step in range(1500)]
