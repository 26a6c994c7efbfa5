"""The scan against its definition, a case by hand, and a peer that was written by others."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core import DataError, RecipeError
from sartor.nn.vmrnn import chunked_recurrence as chunked
from sartor.nn.vmrnn.chunked_recurrence import chunked_recurrence
from sartor.nn.vmrnn.linear_recurrence import associative_recurrence, sequential_recurrence
from sartor.nn.vmrnn.scan import SCAN_METHODS, run_recurrence, selective_scan

Shape = tuple[int, int, int, int, int]
#: length, batch, groups, state, width
SHAPES: tuple[Shape, ...] = ((1, 1, 1, 1, 1), (7, 2, 3, 4, 5), (64, 2, 1, 3, 4), (101, 3, 2, 2, 1))


def parts(shape: Shape, *, decay: float = 1.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """delta, u, A, B and C; ``decay`` scales the step sizes."""
    length, batch, groups, state, width = shape
    draw = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw, dtype=dtype)

    delta = decay * F.softplus(normal(length, batch, groups, width))
    made = [
        delta,
        normal(length, batch, groups, width),
        -normal(groups, state, width).exp(),
        normal(length, batch, groups, state),
        normal(length, batch, groups, state),
    ]
    return [part.requires_grad_() for part in made]


def with_gradients(recurrence, given: list[Tensor]) -> list[Tensor]:
    outputs = recurrence(*given)
    weights = torch.cos(torch.arange(outputs.numel(), dtype=outputs.dtype)).view_as(outputs)
    grads = torch.autograd.grad(
        (outputs * weights).sum(), given, allow_unused=True, materialize_grads=True
    )
    return [outputs.detach(), *grads]


@pytest.mark.parametrize("method", sorted(SCAN_METHODS))
def test_the_case_by_hand(method: str) -> None:
    u = torch.tensor([[[1.0, 2.0, -1.0, 0.5]]])
    delta = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    A = torch.tensor([[-1.0, -2.0]])
    B = torch.tensor([[[1.0, 0.0, 1.0, 1.0], [0.5, 1.0, 0.0, -1.0]]])
    C = torch.tensor([[[1.0, 1.0, -1.0, 2.0], [0.0, 1.0, 1.0, 1.0]]])
    outputs = selective_scan(u, delta, A, B, C, torch.tensor([0.5]), method=method)
    wanted = torch.tensor([[[0.6000, 1.5154, -0.0227, 0.2360]]])
    assert torch.allclose(outputs, wanted, atol=5e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("step", "segment"), [(1, 1), (8, 16), (64, 64), (40, 1000), (0, 0)])
def test_chunks_of_any_size_equal_the_definition(
    shape: Shape, step: int, segment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if step:  # else those in use
        monkeypatch.setattr(chunked, "STEP", step)
        monkeypatch.setattr(chunked, "SEGMENT", segment)
    wanted = with_gradients(sequential_recurrence, parts(shape))
    found = with_gradients(chunked_recurrence, parts(shape))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_associative_form_equals_the_definition(shape: Shape) -> None:
    wanted = with_gradients(sequential_recurrence, parts(shape))
    found = with_gradients(associative_recurrence, parts(shape))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-12)


def test_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "STEP", 16)
    monkeypatch.setattr(chunked, "SEGMENT", 40)
    assert torch.autograd.gradcheck(chunked_recurrence, parts((9, 2, 1, 2, 2)))


def test_single_precision_lies_within_the_card_s_distance() -> None:
    single = [p.detach().float() for p in parts((256, 2, 1, 4, 8))]
    wanted = sequential_recurrence(*(p.double() for p in single))
    scale = wanted.abs().max()
    for recurrence in SCAN_METHODS.values():
        assert float((recurrence(*single) - wanted).abs().max() / scale) < 5e-7


@pytest.mark.parametrize("decay", [1e-6, 30.0, 1e4])
@pytest.mark.parametrize("method", sorted(SCAN_METHODS))
def test_weak_and_strong_decays_are_safe(method: str, decay: float) -> None:
    shape = (300, 1, 1, 2, 3)
    given = [p.detach().float().requires_grad_() for p in parts(shape, decay=decay)]
    found = with_gradients(SCAN_METHODS[method], given)
    double = [p.detach().double().requires_grad_() for p in given]
    wanted = with_gradients(sequential_recurrence, double)
    for one, other in zip(found, wanted, strict=True):
        assert one.isfinite().all()
        assert float((one - other).abs().max()) <= 1e-5 * max(1.0, float(other.abs().max()))


def test_it_equals_the_slow_path_of_transformers() -> None:
    mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    draw = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(2, 6, 19, generator=draw) for _ in range(2))
    A = -torch.rand(6, 4, generator=draw)
    B, C = (torch.randn(2, 4, 19, generator=draw) for _ in range(2))
    D, bias = (torch.randn(6, generator=draw) for _ in range(2))
    wanted = mamba.mamba_selective_scan(
        u, delta, A, B, C, D=D, delta_bias=bias, delta_softplus=True
    )
    found = selective_scan(u, delta, A, B, C, D, bias, delta_softplus=True)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_groups_are_scans_of_their_own() -> None:
    draw = torch.Generator().manual_seed(0)
    u, delta = (torch.rand(2, 6, 11, generator=draw) for _ in range(2))
    A = -torch.rand(6, 3, generator=draw)
    B, C = (torch.randn(2, 2, 3, 11, generator=draw) for _ in range(2))
    together = selective_scan(u, delta, A, B, C)
    for group, at in enumerate((slice(0, 3), slice(3, 6))):
        alone = selective_scan(u[:, at], delta[:, at], A[at], B[:, group], C[:, group])
        assert torch.allclose(together[:, at], alone, atol=1e-6)


def test_half_precision_is_computed_in_single() -> None:
    draw = torch.Generator().manual_seed(0)
    u, delta = (torch.rand(1, 4, 50, generator=draw) for _ in range(2))
    A = -torch.rand(4, 2, generator=draw)
    B, C = (torch.randn(1, 2, 50, generator=draw) for _ in range(2))
    plain = selective_scan(u, delta, A, B, C)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(selective_scan(u, delta, A, B, C), plain)
    half = selective_scan(u.bfloat16(), delta, A, B, C)
    assert half.dtype == torch.bfloat16
    exact = selective_scan(u.bfloat16().float(), delta, A, B, C)
    assert torch.equal(half, exact.bfloat16())


def test_bad_shapes_are_refused() -> None:
    u, A, B = torch.ones(1, 4, 5), -torch.ones(4, 2), torch.ones(1, 2, 5)
    good = (u, u, A, B, B)
    assert selective_scan(*good).shape == u.shape
    bad = {
        "inputs": (u[0], u, A, B, B),
        "delta": (u, u[..., :4], A, B, B),
        "A must": (u, u, A[:2], B, B),
        "B must": (u, u, A, B[:, :1], B),
        "C must": (u, u, A, B, B[..., :1]),
        "groups": (u, u, A, torch.ones(1, 3, 2, 5), B),
        "D must": (*good, torch.ones(3)),
        "delta_bias": (*good, None, torch.ones(5)),
        "not empty": (u[..., :0], u, A, B, B),
    }
    for words, arguments in bad.items():
        with pytest.raises(DataError, match=words):
            selective_scan(*arguments)
    with pytest.raises(RecipeError, match="did you mean 'chunked'"):
        run_recurrence(*parts(SHAPES[0]), method="chunk")
