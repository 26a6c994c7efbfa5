import pytest
import torch

from sartor.core import DataError
from sartor.data.click_log import CARDINALITIES, click_task, draw_click_log, zipf_ids
from sartor.nn.deepfm import DeepFM


def test_ids_have_the_frequencies_of_zipf() -> None:
    draws = zipf_ids(200_000, 50, exponent=1.1, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(draws, minlength=50) / len(draws)
    wanted = torch.arange(1, 51) ** -1.1
    torch.testing.assert_close(share, wanted / wanted.sum(), rtol=0, atol=0.004)
    flat = zipf_ids(100_000, 4, exponent=0.0, generator=torch.Generator().manual_seed(0))
    assert (torch.bincount(flat) / len(flat) - 0.25).abs().max() < 0.01


def test_the_log_is_the_cards() -> None:
    assert (len(CARDINALITIES), max(CARDINALITIES), min(CARDINALITIES)) == (8, 3000, 20)
    best = [draw_click_log(40_000, seed=seed).best_auc for seed in range(3)]
    assert sum(best) / 3 == pytest.approx(0.766, abs=0.01)  # the card's Bayes AUC


def test_clicks_follow_their_probabilities() -> None:
    log = draw_click_log(50_000, seed=3)
    assert log.ids.shape == (50_000, 8) and log.ids.dtype == torch.int64
    assert (log.ids.min(0).values >= 0).all()
    assert (log.ids.max(0).values < torch.tensor(CARDINALITIES)).all()
    order = log.probabilities.argsort()
    for part in order.chunk(10):
        rate, wanted = log.clicks[part].mean(), log.probabilities[part].mean()
        assert abs(float(rate - wanted)) < 0.03
    assert set(log.clicks.unique().tolist()) == {0.0, 1.0}


def test_a_seed_is_a_log_and_the_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (draw_click_log(500, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.ids, same.ids) and torch.equal(first.clicks, same.clicks)
    assert not torch.equal(first.ids, other.ids)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_task_gives_whole_batches_and_its_splits_are_apart() -> None:
    task = click_task(train=130, selection=40, validation=50, batch_size=32)
    batches = list(task.train)
    assert [len(ids) for ids, _ in batches] == [32] * 4  # the last 2 are left out
    (held,), (shown,) = list(task.selection), list(task.validation)
    assert (len(held[0]), len(shown[0])) == (40, 50)
    log = draw_click_log(220, seed=0)
    assert torch.equal(held[0], log.ids[130:170]) and torch.equal(shown[1], log.clicks[170:])
    in_order = torch.cat([ids for ids, _ in batches]).sum(1).sort().values
    assert set(in_order.tolist()) <= set(log.ids[:130].sum(1).tolist())


def test_a_model_is_judged_by_its_auc() -> None:
    task = click_task(train=64, selection=200, validation=500)
    model = DeepFM(CARDINALITIES, embed_dim=4, hidden=())
    assert 0.2 < task.evaluate(model, task.validation) < 0.8
    assert task.evaluate(lambda ids: torch.zeros(len(ids)), task.selection) == 0.5
    assert torch.isfinite(task.loss(model(task.example), torch.ones(1)))
    with pytest.raises(DataError, match="empty"):
        task.evaluate(model, [])


@pytest.mark.parametrize("word", ["train", "selection", "validation", "batch_size"])
def test_refuses_empty_parts(word: str) -> None:
    with pytest.raises(DataError, match="at least 1 view in each split and batch"):
        click_task(**{word: 0})


@pytest.mark.parametrize("words", [{"count": 0}, {"cardinalities": (3, 0)}, {"exponent": -1.0}])
def test_refuses_numbers(words: dict) -> None:
    with pytest.raises(DataError, match="a count and a size of at least 1"):
        draw_click_log(**{"count": 5, **words})


def test_refuses_no_field() -> None:
    with pytest.raises(DataError, match="at least one field"):
        draw_click_log(5, cardinalities=())
