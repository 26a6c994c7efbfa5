"""Groups and views of one storage."""

import pytest
import torch

from sartor.train.mesa.layout import (
    compact_strides,
    group_shape,
    in_memory_order,
    memory_order,
    region,
)


@pytest.mark.parametrize(
    ("shape", "dim", "groups", "card"),
    [
        ((2, 6, 4, 8), 1, 3, (3, 128)),
        ((2, 6, 4, 8), 1, 6, (6, 64)),
        ((2, 5, 12), 2, 3, (3, 40)),
        ((4, 12), 1, 3, (3, 16)),
    ],
)
def test_group_sizes_of_the_card_and_the_way_back(shape, dim, groups, card):
    x = torch.arange(torch.Size(shape).numel()).view(shape)
    outer, count, inner = group_shape(x, dim, groups)
    assert (count, outer * inner) == card
    grouped = x.reshape(outer, count, inner)
    assert torch.equal(grouped.reshape(shape), x)
    run = shape[dim] // groups
    for group in range(groups):  # a second way to compute: slices of the dimension
        part = x.narrow(dim, group * run, run)
        assert torch.equal(grouped[:, group].flatten().sort().values, part.flatten().sort().values)


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(2.0 * 5 * 3 * 4 * 6).view(2, 5, 3, 4, 6)
    return {
        "plain": base,
        "query": base.permute(2, 0, 3, 1, 4)[1],
        "transposed": base.view(10, 72).t(),
        "channels last": base.view(2, 15, 24).permute(0, 2, 1),
        "expanded": torch.arange(6.0).view(1, 6).expand(5, 6),
        "one element": torch.zeros(1, 1),
        "every other": torch.arange(20.0)[::2],
    }


@pytest.mark.parametrize("name", views())
def test_elements_in_memory_order_give_the_view_back(name):
    x = views()[name]
    order = memory_order(x)
    flat = in_memory_order(x, order).reshape(-1).contiguous()
    assert torch.equal(flat.as_strided(x.shape, compact_strides(x, order)), x)
    if name == "expanded":
        assert flat.numel() == 6


def test_views_of_the_same_elements_have_one_region_and_others_have_not():
    base = torch.zeros(2, 5, 3, 4, 6)
    same = [base, base.view(10, 72), base.permute(3, 0, 1, 2, 4), base.flatten().view(720, 1)]
    assert len({region(x, memory_order(x)) for x in same}) == 1
    q, k = base.permute(2, 0, 3, 1, 4)[:2]
    other = [base, q, k, base[1], base[:, :4], base[..., ::2]]
    assert len({region(x, memory_order(x)) for x in other}) == len(other)
    assert region(q, memory_order(q)) == region(q.mT, memory_order(q.mT))


def test_overlapping_windows_have_no_order():
    assert memory_order(torch.arange(10.0).unfold(0, 4, 1)) is None
