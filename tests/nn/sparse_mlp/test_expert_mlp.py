"""Experts against plain MLPs, one at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core import FamilyError
from sartor.nn.sources import seeded
from sartor.nn.sparse_mlp.expert_mlp import ExpertMlp
from sartor.nn.sparse_mlp.top_k_router import top_k_routing


def mlp(experts: ExpertMlp, index: int, units: Tensor) -> Tensor:
    hidden = F.gelu(units @ experts.fc1[index].T + experts.bias1[index])
    return hidden @ experts.fc2[index].T + experts.bias2[index]


def made(count: int, **kwargs) -> tuple[ExpertMlp, Tensor, Tensor]:
    with seeded(0):
        experts = ExpertMlp(count, 5, 7, **kwargs)
        for bias in (experts.bias1, experts.bias2):
            torch.nn.init.normal_(bias.detach())
        return experts, torch.randn(40, 5), torch.randn(40, count)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_each_unit_runs_through_its_own(k: int) -> None:
    experts, units, logits = made(4)
    routing = top_k_routing(logits, k)
    outputs = experts(units, routing.weights, routing.indices)
    for unit, output, weights, indices in zip(
        units, outputs, routing.weights, routing.indices, strict=True
    ):
        each = zip(weights, indices, strict=True)
        wanted = sum(weight * mlp(experts, int(index), unit) for weight, index in each)
        assert torch.allclose(output, wanted, atol=1e-5)


def test_all_experts_are_the_full_mixture() -> None:
    experts, units, logits = made(4)
    routing = top_k_routing(logits, 4)
    outputs = experts(units, routing.weights, routing.indices)
    every = torch.stack([mlp(experts, index, units) for index in range(4)], dim=1)
    wanted = (logits.softmax(dim=1).unsqueeze(-1) * every).sum(dim=1)
    assert torch.allclose(outputs, wanted, atol=1e-5)


def test_equal_experts_are_one_scaled_by_the_heaviest_weight() -> None:
    experts, units, logits = made(4)
    with torch.no_grad():
        for stacked in experts.parameters():
            stacked.copy_(stacked[:1].expand_as(stacked))
    routing = top_k_routing(logits, 1)
    wanted = logits.softmax(dim=1).amax(dim=1, keepdim=True) * mlp(experts, 0, units)
    assert torch.allclose(experts(units, routing.weights, routing.indices), wanted, atol=1e-5)


@pytest.mark.parametrize("capacity_factor", [None, 0.6])
def test_a_traced_graph_has_the_same_numbers(capacity_factor: float | None) -> None:
    experts, units, logits = made(4, capacity_factor=capacity_factor)
    routing = top_k_routing(logits, 2)
    program = torch.export.export(experts, (units, routing.weights, routing.indices))
    traced = program.module()(units, routing.weights, routing.indices)
    eager = experts(units, routing.weights, routing.indices)
    assert torch.allclose(traced, eager, atol=1e-5)


def test_beyond_the_capacity_nothing_is_added() -> None:
    experts, units, _ = made(2, capacity_factor=0.5)
    weights, indices = torch.ones(40, 1), torch.zeros(40, 1, dtype=torch.int64)
    outputs = experts(units, weights, indices)  # room for 0.5 * 40 / 2 = 10 units
    assert torch.allclose(outputs[:10], mlp(experts, 0, units[:10]), atol=1e-5)
    assert outputs[10:].eq(0).all()


def test_an_expert_without_units_learns_nothing_and_breaks_nothing() -> None:
    experts, units, _ = made(3)
    weights, indices = torch.ones(40, 1), torch.ones(40, 1, dtype=torch.int64)
    experts(units, weights, indices).square().sum().backward()
    assert experts.fc1.grad is not None
    assert [bool(grad.ne(0).any()) for grad in experts.fc1.grad] == [False, True, False]


@pytest.mark.parametrize(
    ("numbers", "factor"), [((0, 1, 1), None), ((1, 0, 1), None), ((1, 1, 1), 0.0)]
)
def test_bad_numbers_are_refused(numbers: tuple, factor: float | None) -> None:
    with pytest.raises(FamilyError, match="Experts take"):
        ExpertMlp(*numbers, capacity_factor=factor)
