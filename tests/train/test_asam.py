"""ASAM by hand, against its definition, and where it must change nothing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import TrainingError
from sartor.nn.sources import seeded
from sartor.train import ASAM, asam_perturbation


@pytest.fixture
def setting() -> tuple[nn.Module, Tensor, Tensor]:
    with seeded(0):
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        return model, torch.randn(12, 5), torch.randint(3, (12,))


def step(model: nn.Module, asam: ASAM, x: Tensor, y: Tensor) -> None:
    for half in (asam.ascend, asam.descend):
        F.cross_entropy(model(x), y).backward()
        half()


def test_the_climb_solves_the_problem_that_defines_it() -> None:
    """Of all climbs with |e / T| <= rho none raises a linear loss more."""
    draw = torch.Generator().manual_seed(0)
    w, g = (torch.randn(6, generator=draw, dtype=torch.float64) for _ in range(2))
    scale = w.abs() + 0.1
    best = asam_perturbation({"weight": w}, {"weight": g}, rho=0.7, eta=0.1)["weight"]
    assert float((best / scale).norm()) == pytest.approx(0.7)
    for _ in range(200):
        other = torch.randn(6, generator=draw, dtype=torch.float64) * scale
        other *= 0.7 / (other / scale).norm()
        assert float(g @ other) <= float(g @ best) + 1e-12


def test_scales_of_weights_do_not_matter() -> None:
    """What gives ASAM its name: doubling one layer and halving the next moves no function."""
    w = {"a.weight": torch.tensor([1.0, -2.0]), "b.weight": torch.tensor([3.0])}
    g = {"a.weight": torch.tensor([0.5, 0.1]), "b.weight": torch.tensor([-1.0])}
    plain = asam_perturbation(w, g, rho=1.0)
    factors = {"a.weight": 2.0, "b.weight": 0.5}
    moved = asam_perturbation(
        {n: factors[n] * v for n, v in w.items()},
        {n: v / factors[n] for n, v in g.items()},
        rho=1.0,
    )
    for name, factor in factors.items():
        assert torch.allclose(moved[name], factor * plain[name])


def test_biases_climb_as_in_sam() -> None:
    w, g = {"bias": torch.tensor([5.0])}, {"bias": torch.tensor([2.0])}
    assert asam_perturbation(w, g, rho=0.5)["bias"].item() == 0.5


def test_no_gradient_no_climb() -> None:
    still = asam_perturbation({"weight": torch.ones(2)}, {"weight": torch.zeros(2)}, rho=1.0)
    assert torch.equal(still["weight"], torch.zeros(2))


def test_a_step_takes_the_gradient_from_above(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = setting
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    grads = dict(
        zip(
            start,
            torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())),
            strict=True,
        )
    )
    climbs = asam_perturbation(start, grads, rho=0.3, eta=0.01)
    above = {n: (start[n] + climbs[n]).requires_grad_() for n in start}
    loss = F.cross_entropy(torch.func.functional_call(model, above, (x,)), y)
    wanted = torch.autograd.grad(loss, list(above.values()))
    assert loss > F.cross_entropy(model(x), y)
    step(model, ASAM(model, torch.optim.SGD(model.parameters(), lr=0.1), rho=0.3, eta=0.01), x, y)
    for (name, p), gradient in zip(model.named_parameters(), wanted, strict=True):
        assert torch.allclose(p, start[name] - 0.1 * gradient, atol=1e-6)
        assert p.grad is None


def test_without_a_climb_it_is_the_optimiser(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = setting
    other = copy.deepcopy(model)
    asam = ASAM(model, torch.optim.AdamW(model.parameters(), lr=0.01), rho=0.0)
    alone = torch.optim.AdamW(other.parameters(), lr=0.01)
    for _ in range(3):
        step(model, asam, x, y)
        F.cross_entropy(other(x), y).backward()
        alone.step()
        alone.zero_grad()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_frozen_weights_stay(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = setting
    model[0].requires_grad_(False)
    kept = copy.deepcopy(model[0].state_dict())
    step(model, ASAM(model, torch.optim.SGD(model.parameters(), lr=0.1)), x, y)
    assert all(torch.equal(kept[n], p) for n, p in model[0].state_dict().items())


def test_bad_calls_are_refused(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = setting
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for numbers in ({"rho": -1.0}, {"eta": float("nan")}):
        with pytest.raises(TrainingError, match="at least 0"):
            ASAM(model, sgd, **numbers)
    asam = ASAM(model, sgd)
    with pytest.raises(TrainingError, match="ascend"):
        asam.descend()
    with pytest.raises(TrainingError, match="after a backward pass"):
        asam.ascend()
    F.cross_entropy(model(x), y).backward()
    asam.ascend()
    F.cross_entropy(model(x), y).backward()
    with pytest.raises(TrainingError, match="ascends once"):
        asam.ascend()
