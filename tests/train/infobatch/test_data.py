"""Indices beside the batches of any loader, and which loaders are refused."""

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from sartor.core import DataError
from sartor.data import digits_task
from sartor.train import IndexedDataset, prune_data


def data(count: int = 20) -> TensorDataset:
    return TensorDataset(torch.arange(count) * 10.0, torch.arange(count))


@pytest.mark.parametrize("workers", [0, 2])
def test_indices_stand_beside_their_samples(workers: int) -> None:
    loader = DataLoader(data(), batch_size=6, shuffle=True, num_workers=workers)
    indexed = prune_data(loader, epochs=4)
    seen = []
    for inputs, targets, indices in indexed:
        assert torch.equal(targets, indices) and torch.equal(inputs, indices * 10.0)
        seen += indices.tolist()
    assert sorted(seen) == list(range(20)) and len(indexed) == 4


def test_built_in_tasks_keep_their_variants_and_their_fast_path() -> None:
    task = digits_task(batch_size=128)
    loader = prune_data(task.train, epochs=2)
    sampler, pool = loader.sampler, task.train.dataset
    assert sampler.num_samples == task.train.sampler.count
    assert sampler.variants == task.train.sampler.draws > 1
    inputs, targets, indices = next(iter(loader))
    assert torch.equal(inputs, pool.__getitems__(indices)[0])
    assert torch.equal(targets, pool.labels[indices]) and indices.max() >= sampler.num_samples
    assert loader.drop_last == task.train.drop_last


def test_settings_of_the_loader_are_kept() -> None:
    def double(items: list) -> tuple[Tensor, Tensor]:
        return torch.stack([2 * x for x, _ in items]), torch.stack([y for _, y in items])

    loader = DataLoader(data(), batch_size=8, shuffle=True, drop_last=True, collate_fn=double)
    indexed = prune_data(loader, epochs=4)
    assert len(indexed) == 2
    for inputs, _, indices in indexed:
        assert torch.equal(inputs, indices * 20.0)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(0.0, 1)])


class Sizeless(Dataset):
    def __getitem__(self, index: int) -> tuple[float, int]:
        return 0.0, 1


class Growing(Dataset):
    size = 8

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, index


@pytest.mark.parametrize("dataset", [Stream(), Sizeless()], ids=["stream", "sizeless"])
def test_data_without_numbered_samples_are_refused(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="a dataset with a length and items by index"):
        IndexedDataset(dataset)


def test_a_stream_is_refused_as_a_loader() -> None:
    with pytest.raises(DataError, match="items by index, got Stream"):
        prune_data(DataLoader(Stream(), batch_size=1), epochs=2)


def test_data_whose_length_changes_are_refused() -> None:
    dataset = Growing()
    loader = prune_data(DataLoader(dataset, batch_size=4, shuffle=True), epochs=2)
    dataset.size = 9
    with pytest.raises(DataError, match="had 8 samples and now has 9"):
        next(iter(loader))
    with pytest.raises(DataError, match="had 8 samples and now has 9"):
        loader.dataset[0]


@pytest.mark.parametrize(
    "sampler",
    [
        None,
        RandomSampler(range(20), replacement=True),
        RandomSampler(range(20), num_samples=10),
        WeightedRandomSampler([1.0] * 20, 20),
        SubsetRandomSampler(range(10)),
    ],
    ids=["in order", "replacement", "fewer", "weighted", "subset"],
)
def test_samplers_that_are_no_plain_shuffle_are_refused(sampler: object) -> None:
    with pytest.raises(DataError, match=r"each of the 20 samples once an epoch .* shuffle=True"):
        prune_data(DataLoader(data(), batch_size=4, sampler=sampler), epochs=2)


@pytest.mark.parametrize(
    "loader", [[1, 2], DataLoader(data(), batch_size=None)], ids=["a list", "no batches"]
)
def test_what_has_no_batches_of_its_own_is_refused(loader: object) -> None:
    with pytest.raises(DataError, match="a torch DataLoader with a batch_size"):
        prune_data(loader, epochs=2)


def test_items_that_are_no_tuples_are_refused() -> None:
    loader = DataLoader([{"x": 1.0}] * 4, batch_size=2, shuffle=True)
    with pytest.raises(DataError, match=r"items that are tuples, .* got dict"):
        next(iter(prune_data(loader, epochs=2)))
