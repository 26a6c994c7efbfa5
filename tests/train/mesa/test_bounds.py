"""Gradients of each operation under Mesa lie within what its quantiser's step allows."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.train.mesa.context import Mesa
from sartor.train.mesa.settings import MesaSettings

GROUPS = 4


class Product(nn.Module):
    num_heads = GROUPS

    def forward(self, x: Tensor) -> Tensor:
        return x @ x.detach().flip(0).mT


class Attention(nn.Module):
    num_heads = GROUPS

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, dim=-1)


def compare(module: nn.Module, x: Tensor, *, stochastic: bool):
    """Gradients of parameters and input, exact and under Mesa, and the upstream gradient."""
    groups = "heads" if hasattr(module, "num_heads") else GROUPS
    rule = MesaSettings(groups=groups, momentum=None, min_numel=1, stochastic=stochastic)
    mesa = Mesa(module, rule)
    inputs = (x, *module.parameters())
    plain = module(x)
    with mesa:
        ours = module(x)
    assert torch.equal(plain, ours)  # bit for bit
    upstream = torch.randn(plain.shape, generator=torch.Generator().manual_seed(3))
    wanted = torch.autograd.grad(plain, inputs, upstream)
    given = torch.autograd.grad(ours, inputs, upstream)
    return wanted, given, upstream


def steps(x: Tensor, dim: int, *, stochastic: bool) -> Tensor:
    """How far each stored element may be off, from slices of ``x`` instead of Mesa's code."""
    made = torch.zeros_like(x)
    for source, target in zip(x.chunk(GROUPS, dim), made.chunk(GROUPS, dim), strict=True):
        target.fill_(float(source.max() - source.min()) / (255 if stochastic else 510))
    return made


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def within(given: Tensor, wanted: Tensor, bound: Tensor) -> None:
    error = (given - wanted).abs()
    slack = 1e-4 * float(wanted.abs().max())  # float32 sums in another order
    assert (error <= bound + slack).all(), float((error - bound).max())
    assert float(error.max()) > 0.02 * float(bound.max()), "nothing was rounded"


@pytest.mark.parametrize("stochastic", [True, False], ids=["stochastic", "nearest"])
class TestBounds:
    def test_linear(self, stochastic: bool) -> None:
        module, x = nn.Linear(16, 24), drawn(32, 10, 16)
        (dx, dw, db), (ours_x, ours_w, ours_b), g = compare(
            module, x.requires_grad_(), stochastic=stochastic
        )
        assert torch.equal(dx, ours_x) and torch.equal(db, ours_b)  # they need no activation
        off = steps(x.detach(), 2, stochastic=stochastic)
        within(ours_w, dw, torch.einsum("bno,bni->oi", g.abs(), off))

    def test_convolution(self, stochastic: bool) -> None:
        module, x = nn.Conv2d(8, 6, 3, padding=1), drawn(4, 8, 9, 9)
        (dx, dw, db), (ours_x, ours_w, ours_b), g = compare(
            module, x.requires_grad_(), stochastic=stochastic
        )
        assert torch.equal(dx, ours_x) and torch.equal(db, ours_b)
        off = steps(x.detach(), 1, stochastic=stochastic)
        bound = torch.nn.grad.conv2d_weight(off, module.weight.shape, g.abs(), padding=1)
        within(ours_w, dw, bound)

    def test_matmul(self, stochastic: bool) -> None:
        x = drawn(2, GROUPS, 8, 6).requires_grad_()
        (dx,), (ours,), g = compare(Product(), x, stochastic=stochastic)
        off = steps(x.detach().flip(0), 1, stochastic=stochastic)
        within(ours, dx, g.abs() @ off)

    def test_softmax(self, stochastic: bool) -> None:
        x = drawn(2, GROUPS, 8, 8).requires_grad_()
        (dx,), (ours,), g = compare(Attention(), x, stochastic=stochastic)
        y = x.detach().softmax(-1)
        off = steps(y, 1, stochastic=stochastic)
        inner = (g * y).sum(-1, keepdim=True)  # dx = y * (g - inner)
        shift = (g.abs() * off).sum(-1, keepdim=True)
        within(ours, dx, off * (g - inner).abs() + (y + off) * shift)

    def test_gelu(self, stochastic: bool) -> None:
        x = drawn(32, 10, 16).requires_grad_()
        (dx,), (ours,), g = compare(nn.GELU(), x, stochastic=stochastic)
        off = steps(x.detach(), 2, stochastic=stochastic)
        curvature = (2 / torch.pi) ** 0.5  # the greatest second derivative, at 0
        within(ours, dx, curvature * g.abs() * off)

    def test_layer_norm(self, stochastic: bool) -> None:
        module, x = nn.LayerNorm(16), drawn(32, 10, 16)
        (_, dw, db), (_, ours_w, ours_b), g = compare(
            module, x.requires_grad_(), stochastic=stochastic
        )
        assert torch.equal(db, ours_b)
        plain = x.detach()
        rstd = (plain.var(-1, correction=0, keepdim=True) + module.eps).rsqrt()
        off = steps(plain, 2, stochastic=stochastic)
        within(ours_w, dw, (g.abs() * off * rstd).sum((0, 1)))  # mean and rstd are exact


class Fused(nn.Module):
    num_heads = GROUPS

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x.flip(0), x.flip(2))


class Explicit(nn.Module):
    num_heads = GROUPS

    def forward(self, x: Tensor) -> Tensor:
        scores = x @ x.flip(0).mT * x.shape[-1] ** -0.5
        return scores.softmax(-1) @ x.flip(2)


def test_fused_attention_is_as_close_as_the_explicit_one() -> None:
    x = drawn(2, GROUPS, 64, 16).requires_grad_()
    errors = []
    for module in (Fused(), Explicit()):
        (dx,), (ours,), _ = compare(module, x, stochastic=True)
        errors.append(float((ours - dx).norm() / dx.norm()))
    assert 0 < errors[0] < 1.2 * errors[1]


Call = Callable[[Tensor], Tensor]


@pytest.mark.parametrize(
    ("call", "saved", "slope"),
    [
        (torch.exp, torch.exp, lambda y, off: off),  # dx = g * y
        (torch.sigmoid, torch.sigmoid, lambda y, off: (1 - 2 * y).abs() * off + off**2),
        (torch.tanh, torch.tanh, lambda y, off: 2 * y.abs() * off + off**2),
        (torch.square, lambda x: x, lambda x, off: 2 * off),
    ],
    ids=["exp", "sigmoid", "tanh", "square"],
)
def test_any_other_operation(call: Call, saved: Call, slope: Callable[..., Tensor]) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(x)

    x = drawn(64, 16).requires_grad_()
    (dx,), (ours,), g = compare(Other(), x, stochastic=True)
    value = saved(x.detach())
    within(ours, dx, g.abs() * slope(value, steps(value, 1, stochastic=True)))
