import copy
import gc

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sartor.train.cowclip.counts import IdCounts

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant")


def taken(counts: IdCounts) -> list[dict[int, int]]:
    return [dict(zip(i.tolist(), c.tolist(), strict=True)) for i, c in counts.take()]


def backward(module: nn.Module, *ids: int) -> None:
    module(torch.tensor(ids)).sum().backward()


def test_fields_that_share_a_table_and_micro_batches_add_up() -> None:
    table, other = nn.Embedding(5, 2), nn.Embedding(3, 2)
    counts = IdCounts([table, other])
    (table(torch.tensor([[0, 1], [1, 4]])).sum() + table(torch.tensor([1])).sum()).backward()
    assert taken(counts) == [{0: 1, 1: 3, 4: 1}, {}]
    backward(table, 4, 4)
    backward(other, 2)
    assert taken(counts) == [{0: 1, 1: 3, 4: 3}, {2: 1}]
    counts.clear()
    assert taken(counts) == [{}, {}]


def test_modules_with_one_weight_are_one_table() -> None:
    first, second = nn.Embedding(5, 2), nn.Embedding(5, 2)
    second.weight = first.weight
    counts = IdCounts([first, second])
    backward(first, 1, 2)
    backward(second, 2)
    assert len(counts.weights) == 1 and taken(counts) == [{1: 1, 2: 2}]


def test_only_gradients_count() -> None:
    table = nn.Embedding(5, 2)
    counts = IdCounts([table])
    with torch.no_grad():
        table(torch.tensor([0]))
    kept = table(torch.tensor([1]))
    assert taken(counts) == [{}]
    kept.sum().backward()
    assert taken(counts) == [{1: 1}]


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_counts_once(reentrant: bool) -> None:
    table, scale = nn.Embedding(5, 2), torch.ones((), requires_grad=True)
    counts = IdCounts([table])

    def part(ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (table(ids) * scale).sum()

    checkpoint(part, torch.tensor([3, 3]), scale, use_reentrant=reentrant).backward()
    assert taken(counts) == [{3: 2}]


def test_bags_and_the_name_of_their_input() -> None:
    bag = nn.EmbeddingBag(6, 2, mode="sum")
    counts = IdCounts([bag])
    bag(input=torch.tensor([1, 2, 1]), offsets=torch.tensor([0, 2])).sum().backward()
    assert taken(counts) == [{1: 2, 2: 1}]


@pytest.mark.parametrize("sparse", [False, True])
def test_short_integers_and_sparse_tables(sparse: bool) -> None:
    table = nn.Embedding(5, 2, sparse=sparse)
    counts = IdCounts([table])
    table(torch.tensor([4, 4, 0], dtype=torch.int32)).sum().backward()
    ((ids, number),) = counts.take()
    assert ids.dtype == number.dtype == torch.int64
    assert (ids.tolist(), number.tolist()) == ([0, 4], [1, 2])


def test_a_copy_of_the_model_is_not_heard() -> None:
    table = nn.Embedding(5, 2)
    counts = IdCounts([table])
    backward(copy.deepcopy(table), 1)
    assert taken(counts) == [{}]


def test_listening_ends_with_the_object() -> None:
    table = nn.Embedding(5, 2)
    counts = IdCounts([table])
    assert len(table._forward_hooks) == 1
    value = table(torch.tensor([1])).sum()
    del counts
    gc.collect()
    assert not table._forward_hooks
    value.backward()
    assert table.weight.grad is not None
