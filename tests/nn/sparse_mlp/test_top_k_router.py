import pytest
import torch
from torch import Tensor

from sartor.core import DataError, FamilyError
from sartor.nn.sources import seeded
from sartor.nn.sparse_mlp.top_k_router import (
    TopKRouter,
    load_balance_loss,
    squared_variation,
    top_k_routing,
)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_weights_are_those_of_the_softmax_over_all() -> None:
    logits = normal(5, 4)
    routing = top_k_routing(logits, 2)
    every = logits.softmax(dim=-1)
    assert torch.equal(routing.weights, every.gather(1, routing.indices))
    assert torch.equal(routing.indices, logits.argsort(dim=1, descending=True)[:, :2])
    assert bool((routing.weights.sum(dim=1) < 1).all())
    assert torch.equal(routing.threshold, logits.sort(dim=1).values[:, -2])


def test_noise_moves_the_choice_and_not_the_logits_that_are_balanced() -> None:
    logits = torch.tensor([[1.0, 0.0]])
    routing = top_k_routing(logits, 1, noise=torch.tensor([[0.0, 3.0]]))
    assert routing.indices.tolist() == [[1]] and routing.threshold.tolist() == [3.0]
    assert torch.equal(routing.logits, logits)


@pytest.mark.parametrize("k", [0, 3])
def test_k_must_be_one_of_the_experts(k: int) -> None:
    with pytest.raises(DataError, match="1 to 2 of 2 experts"):
        top_k_routing(torch.zeros(1, 2), k)


def test_variation_of_equal_and_of_single_experts() -> None:
    assert float(squared_variation(torch.full((7,), 3.0))) == 0
    for experts in (2, 5, 8):
        alone = torch.zeros(experts)
        alone[1] = 4.0
        assert float(squared_variation(alone)) == pytest.approx(experts - 1)


def test_the_card_s_probabilities() -> None:
    """Logits (1, 0), two experts, no noise drawn: Phi(0) and Phi(-2)."""
    load = torch.special.ndtr(torch.tensor([0.0, -2.0], dtype=torch.float64))
    assert load.tolist() == pytest.approx([0.5, 0.022750], abs=5e-7)
    logits = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    wanted = (squared_variation(logits.softmax(dim=1)[0]) + squared_variation(load)) / 2
    assert float(load_balance_loss(top_k_routing(logits, 1))) == pytest.approx(float(wanted))


def test_even_routing_costs_nothing() -> None:
    logits = 3 * torch.eye(4).repeat(5, 1)
    assert float(load_balance_loss(top_k_routing(logits, 1))) == pytest.approx(0, abs=1e-10)


def test_the_loss_evens_the_load_out() -> None:
    logits = (normal(200, 4) + torch.tensor([2.0, 0.0, 0.0, 0.0])).requires_grad_()
    counts = top_k_routing(logits, 1).indices.flatten().bincount(minlength=4)
    first = load_balance_loss(top_k_routing(logits, 1))
    for _ in range(20):
        loss = load_balance_loss(top_k_routing(logits, 1))
        (grad,) = torch.autograd.grad(loss, logits)
        logits = (logits - 50 * grad).detach().requires_grad_()
    after = top_k_routing(logits, 1).indices.flatten().bincount(minlength=4)
    assert float(loss.detach()) < 0.1 * float(first.detach())
    assert int(after.max()) < int(counts.max())


def test_the_router_is_noisy_in_training_only() -> None:
    with seeded(0):
        router, units = TopKRouter(6, 4, 2), torch.randn(50, 6)
        once, again = (router.train()(units).threshold for _ in range(2))
        assert not torch.equal(once, again)
        once, again = (router.eval()(units).weights for _ in range(2))
    assert torch.equal(once, again) and router.noise_std == 0.25


def test_half_precision_is_routed_in_single() -> None:
    router = TopKRouter(6, 4).eval()
    units = normal(9, 6).bfloat16()
    assert router(units).weights.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(router(units.float()).logits, router(units).logits)


@pytest.mark.parametrize("arguments", [(0, 2), (4, 2, 3), (4, 2, 0), (4, 2, 1, 0.0)])
def test_bad_numbers_are_refused(arguments: tuple) -> None:
    with pytest.raises(FamilyError, match="A router takes"):
        TopKRouter(*arguments)
