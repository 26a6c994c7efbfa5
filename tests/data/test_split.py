from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.core import DataError
from sartor.data.split import check_labels, hold_out, selection_size, validation_size


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
def test_parts_are_disjoint_whole_and_leave_every_class_one(
    sizes: list[int], count: int, seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    if max(sizes) == 1:
        with pytest.raises(DataError, match="at least two of each class"):
            hold_out(labels, count, seed=seed)
        return
    kept, held = hold_out(labels, count, seed=seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert set(labels[kept].tolist()) == set(range(len(sizes)))
    assert len(held) == min(count, sum(sizes) - len(sizes))


def test_held_out_part_has_the_shares_of_the_classes() -> None:
    labels = torch.tensor([0] * 100 + [1] * 300)
    _, held = hold_out(labels, 40, seed=3)
    assert torch.bincount(labels[held]).tolist() == [10, 30]


def test_seed_decides_and_global_state_stays() -> None:
    labels = torch.arange(4).repeat(10)
    state = torch.get_rng_state()
    first, again, other = (hold_out(labels, 8, seed=seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_sizes() -> None:
    assert [selection_size(n) for n in (3, 100, 10**6)] == [1, 10, 2048]
    assert [validation_size(n) for n in (2, 100)] == [1, 20]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], "are empty"), ([0, -1], "hold -1"), ([0, 3], "hold 3"), ([0, 2], "Class 1 of 0..2")],
)
def test_bad_labels(labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_labels(torch.tensor(labels, dtype=torch.int64), 3, split="training", every=True)
