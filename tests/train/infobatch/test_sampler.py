"""The sampler over epochs: the card's runs, scores, resuming in mid-epoch, stripes, refusals."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from sartor.core import TrainingError
from sartor.train import InfoBatchSettings, LossPruningSampler, load_tensors, save_tensors

FIXED = torch.arange(16) / 16


def sampler(epochs: int = 8, count: int = 16, **more) -> LossPruningSampler:
    world = {k: more.pop(k) for k in ("rank", "world_size", "variants") if k in more}
    return LossPruningSampler(count, epochs=epochs, settings=InfoBatchSettings(**more), **world)


def run(one: LossPruningSampler, epochs: int, losses=FIXED) -> list[list[int]]:
    """Train on fixed losses; returns the samples of each epoch."""
    seen = []
    for epoch in range(epochs):
        one.set_epoch(epoch)
        seen.append(list(one))
        index = torch.tensor(seen[-1])
        one.update(index, losses[index])
    return seen


def test_card_eight_epochs() -> None:
    one = sampler()
    seen = run(one, 8)
    assert [16 - len(epoch) for epoch in seen] == [0, 4, 4, 4, 4, 4, 4, 0]
    assert one.saved_fraction == 24 / (8 * 16)
    # r * (pruned epochs / C) * share below the mean
    assert one.saved_fraction == 0.5 * 6 / 8 * 8 / 16
    assert all(len(set(epoch)) == len(epoch) for epoch in seen)
    assert len({tuple(sorted(epoch)) for epoch in seen[1:7]}) > 1


def test_card_four_epochs() -> None:
    one = sampler(4, anneal_fraction=0.5)
    assert [16 - len(epoch) for epoch in run(one, 4)] == [0, 4, 0, 0]
    assert one.weights(torch.arange(16)).tolist() == [1.0] * 16


def test_annealing_takes_all_with_weight_one_also_where_its_start_is_no_integer() -> None:
    one = sampler(10)
    assert [len(epoch) for epoch in run(one, 10)] == [16, *[12] * 8, 16]
    assert set(one.weights(torch.arange(16)).tolist()) == {1.0}


def test_warm_up_and_switched_off_take_all() -> None:
    assert [len(epoch) for epoch in run(sampler(warmup_epochs=3), 8)] == [16] * 3 + [12] * 4 + [16]
    for off in ({"prune_ratio": 0.0}, {"anneal_fraction": 0.0}):
        assert all(sorted(epoch) == list(range(16)) for epoch in run(sampler(**off), 8))


def test_switched_off_is_torchs_shuffled_sampler() -> None:
    one = sampler(prune_ratio=0.0, seed=3)
    for epoch, order in enumerate(run(one, 8)):
        generator = torch.Generator().manual_seed(3 * 1_000_003 + epoch)
        assert order == list(RandomSampler(range(16), generator=generator))


def test_skipped_samples_keep_their_score() -> None:
    one = sampler()
    run(one, 1)
    one.set_epoch(1)
    kept = torch.tensor(list(one))
    one.update(kept, torch.full((12,), 5.0))
    skipped = torch.ones(16, dtype=torch.bool)
    skipped[kept] = False
    assert torch.equal(one.scores[skipped], FIXED[skipped]) and int(skipped.sum()) == 4
    assert one.scores[kept].tolist() == [5.0] * 12


def test_stale_scores_count_in_the_mean() -> None:
    one = sampler(count=4)
    one.update(torch.arange(4), torch.tensor([1.0, 1.0, 1.0, 9.0]))  # mean 3
    one.set_epoch(1)
    assert one.num_kept == 2
    one.update(torch.tensor([3]), torch.tensor([0.5]))
    one.set_epoch(2)  # mean 0.875: sample 3 alone lies below, and is kept with weight 1
    assert one.num_kept == 4 and one.weights(torch.arange(4)).tolist() == [1.0] * 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_leave_the_score(bad: float) -> None:
    one = sampler(count=3)
    one.update(torch.arange(3), torch.tensor([1.0, 2.0, 3.0]))
    one.set_epoch(1)
    one.update(torch.tensor([1, 2]), torch.tensor([bad, 4.0]))
    assert one.scores.tolist() == [1.0, 2.0, 4.0]


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    run(sampler(variants=3), 3, FIXED.repeat(3))
    assert torch.equal(before, torch.get_rng_state())


def test_same_seed_same_epochs_other_seed_others() -> None:
    assert run(sampler(seed=1), 8) == run(sampler(seed=1), 8)
    assert run(sampler(seed=1), 8) != run(sampler(seed=2), 8)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_ends_with_any_number_of_workers(workers: int) -> None:
    one = sampler()
    data = TensorDataset(torch.arange(16))
    loader = DataLoader(data, batch_size=5, sampler=one, num_workers=workers)
    expected = run(sampler(), 8)
    for epoch in range(3):
        one.set_epoch(epoch)
        seen = []
        for (index,) in loader:
            one.update(index, FIXED[index])
            seen += index.tolist()
        assert seen == expected[epoch] and len(loader) == 0


@pytest.mark.parametrize("variants", [1, 3])
@pytest.mark.parametrize(("epoch", "steps"), [(0, 0), (2, 1), (2, 2), (2, 3), (5, 0)])
def test_resumed_in_mid_epoch_it_goes_on_the_same(
    tmp_path, epoch: int, steps: int, variants: int
) -> None:
    def batches(one: LossPruningSampler, start: int, stop: tuple[int, int] | None = None):
        for number in range(start, 8):
            one.set_epoch(number)
            source = iter(one)
            for step in itertools.count():
                if (number, step) == stop:
                    return
                index = torch.tensor(list(itertools.islice(source, 4)), dtype=torch.int64)
                if not len(index):
                    break
                weights = one.weights(index)
                one.update(index, (index % 16 * 7 % 16) / 16 + number)
                yield index.tolist(), weights.tolist(), one.progress

    through = sampler(variants=variants)
    whole = list(batches(through, 0))
    first = sampler(variants=variants)
    before = list(batches(first, 0, stop=(epoch, steps)))
    state = first.state_dict()
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    save_tensors(tensors, tmp_path / "state.safetensors")
    plain = {key: value for key, value in state.items() if key not in tensors}
    second = sampler(variants=variants)
    second.load_state_dict(plain | load_tensors(tmp_path / "state.safetensors"))
    after = list(batches(second, epoch))
    assert before + after == whole and len(after) > 0
    assert second.saved_fraction == through.saved_fraction > 0
    assert torch.equal(second.scores, through.scores)


def test_the_state_is_a_copy() -> None:
    one = sampler()
    state = one.state_dict()
    run(one, 3)
    assert state["scores"].tolist() == [1.0] * 16 and len(state["to_come"]) == 16


@pytest.mark.parametrize("world", [2, 3, 5])
def test_stripes_join_to_the_epoch_of_one_process(world: int) -> None:
    alone, ranks = sampler(), [sampler(rank=r, world_size=world) for r in range(world)]
    for epoch in range(8):
        for one in (alone, *ranks):
            one.set_epoch(epoch)
        expected, stripes = list(alone), [list(one) for one in ranks]
        assert {len(s) for s in stripes} == {len(one) for one in ranks}
        assert len(stripes[0]) == -(-len(expected) // world)
        joined = [index for row in zip(*stripes, strict=True) for index in row]
        assert joined[: len(expected)] == expected
        assert set(joined[len(expected) :]) <= set(expected)
        for one in (alone, *ranks):
            one.update(torch.tensor(expected), FIXED[expected])


def test_variants_share_a_score() -> None:
    one = sampler(variants=3)
    seen = run(one, 8, FIXED.repeat(3))
    assert [len({index % 16 for index in epoch}) for epoch in seen] == [16, *[12] * 6, 16]
    assert {index // 16 for epoch in seen for index in epoch} == {0, 1, 2}
    assert torch.equal(one.scores, FIXED)


def test_progress_goes_by_epochs_not_by_steps() -> None:
    one = sampler()
    run(one, 1)
    one.set_epoch(1)
    one.update(torch.arange(4), FIXED[:4])
    assert one.progress == (1 + 4 / 12) / 8


def test_a_second_pass_over_the_same_epoch_is_refused() -> None:
    one = sampler()
    run(one, 1)
    with pytest.raises(TrainingError, match="Epoch 0 was trained on already; call set_epoch"):
        list(one)
    one.set_epoch(0)
    with pytest.raises(TrainingError, match="Epoch 0 was trained on already"):
        list(one)


def test_losses_that_come_twice_are_refused() -> None:
    one = sampler()
    run(one, 1)
    with pytest.raises(TrainingError, match="keeps 16 samples, of which 16 are trained, and 4"):
        one.update(torch.arange(4), FIXED[:4])


@pytest.mark.parametrize("epoch", [-1, 8])
def test_epochs_outside_of_the_training_are_refused(epoch: int) -> None:
    with pytest.raises(TrainingError, match=f"epochs 0 to 7, got {epoch}"):
        sampler().set_epoch(epoch)


@pytest.mark.parametrize("index", [-1, 16])
def test_indices_out_of_range_are_refused(index: int) -> None:
    with pytest.raises(TrainingError, match=f"indices 0 to 15, got {index}"):
        sampler().update(torch.tensor([index]), torch.tensor([1.0]))


@pytest.mark.parametrize("shape", [(), (3,), (4, 2)], ids=str)
def test_losses_that_are_not_one_a_sample_are_refused(shape: tuple) -> None:
    with pytest.raises(TrainingError, match="one loss a sample"):
        sampler().update(torch.arange(4), torch.ones(shape))


@pytest.mark.parametrize(
    "wrong",
    [{"count": 0}, {"epochs": 1}, {"variants": 0}, {"rank": 2, "world_size": 2}],
    ids=str,
)
def test_numbers_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(TrainingError, match="num_samples >= 1"):
        sampler(**wrong)


@pytest.mark.parametrize("other", [{"count": 17}, {"epochs": 9}], ids=str)
def test_the_state_of_another_training_is_refused(other: dict) -> None:
    with pytest.raises(TrainingError, match="go on with the same data and schedule"):
        sampler(**other).load_state_dict(sampler().state_dict())


@pytest.mark.gpu
def test_scores_follow_the_losses_to_the_gpu() -> None:
    one, here = sampler(), sampler()
    expected = run(here, 8)
    assert run(one, 8, FIXED.cuda()) == expected
    assert one.scores.is_cuda and torch.equal(one.scores.cpu(), here.scores)
    assert one.weights(torch.arange(16).cuda()).is_cuda
