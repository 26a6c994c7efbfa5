"""The clip against the card's figures and against a row-by-row transcription of the formula."""

import math

import pytest
import torch

from sartor.core import DataError, RecipeError
from sartor.train.cowclip.clip import cowclip_, norm_bound, row_factors

#: torch says that it does not check sparse tensors, once a process
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant")

WEIGHT = torch.tensor([[0.03, 0.04], [0.0, 0.0], [0.6, 0.8], [0.003, 0.004]])
GRAD = torch.tensor([[0.3, 0.4], [0.06, 0.08], [0.3, 0.4], [0.0, 0.0]])
IDS, COUNTS = torch.arange(4), torch.tensor([2, 1, 3, 1])
#: r -> the card's clipped gradient, with a bound of 0.01 on the norm
CARD = {
    1.0: [[0.06, 0.08], [0.006, 0.008], [0.3, 0.4], [0.0, 0.0]],
    0.5: [[0.03, 0.04], [0.003, 0.004], [0.3, 0.4], [0.0, 0.0]],
}


def dense_or_sparse(grad: torch.Tensor, sparse: bool) -> torch.Tensor:
    return grad.clone().to_sparse(1).coalesce() if sparse else grad.clone()


def random_case(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    weight = 0.5 * torch.randn(20, 3, generator=generator, dtype=dtype)
    grad = torch.randn(20, 3, generator=generator, dtype=dtype)
    ids = torch.randint(20, (30,), generator=generator)
    return weight, grad, ids


def by_rows(weight, grad, ids, r, bound):
    """The published formula in plain Python, one row after another."""
    wanted = grad.clone()
    for row in set(ids.tolist()):
        times = ids.tolist().count(row)
        threshold = r * times * max(math.hypot(*weight[row].tolist()), bound)
        norm = math.hypot(*grad[row].tolist())
        if max(norm, threshold) > 0:
            wanted[row] = grad[row] * threshold / max(norm, threshold)
    return wanted


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("r", CARD)
def test_the_cards_figures(r: float, sparse: bool) -> None:
    grad = dense_or_sparse(GRAD, sparse)
    found = cowclip_(WEIGHT, grad, IDS, COUNTS, r=r, bound=0.01)
    assert found is grad
    torch.testing.assert_close(found.to_dense(), torch.tensor(CARD[r]), rtol=1e-6, atol=1e-9)


def test_the_cards_bounds() -> None:
    assert norm_bound(10) == pytest.approx(3.162278e-05, rel=1e-6)
    assert norm_bound(10, zeta=1e-4) == pytest.approx(3.162278e-04, rel=1e-6)
    assert norm_bound(4, r=0.5, zeta=1e-2) == pytest.approx(1e-2)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(("r", "bound"), [(1.0, 1e-5), (0.3, 0.2), (2.0, 0.0)])
def test_equals_the_formula_row_by_row(r: float, bound: float, sparse: bool) -> None:
    for seed in range(5):
        weight, grad, ids = random_case(seed)
        weight[ids[0]] = 0.0
        wanted = by_rows(weight, grad, ids, r, bound)
        found = cowclip_(weight, dense_or_sparse(grad, sparse), ids, r=r, bound=bound).to_dense()
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
        absent = sorted(set(range(20)) - set(ids.tolist()))
        assert absent and torch.equal(found[absent], grad[absent])


def test_invariants() -> None:
    weight, grad, ids = random_case(7)
    unique, counts = torch.unique(ids, return_counts=True)
    clipped = cowclip_(weight, grad.clone(), unique, counts, bound=1e-3)
    before, after = grad[unique].norm(dim=1), clipped[unique].norm(dim=1)
    limit = counts * weight[unique].norm(dim=1).clamp_min(1e-3)
    assert (after <= before).all() and (after <= limit * (1 + 1e-12)).all()
    assert (after < 0.99 * before).any() and (after == before).any()  # both cases occur
    cosine = torch.nn.functional.cosine_similarity(clipped, grad)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert torch.equal(cowclip_(weight, grad.clone(), ids, r=1e9), grad)  # bit for bit


def test_a_batch_given_twice_is_clipped_less() -> None:
    weight, grad, ids = random_case(3)
    once = cowclip_(weight, grad.clone(), ids)
    twice = cowclip_(weight, grad.clone(), torch.cat([ids, ids]))
    rows = torch.unique(ids)
    short = once[rows].norm(dim=1) < grad[rows].norm(dim=1)
    assert short.any()
    assert (twice[rows].norm(dim=1) >= once[rows].norm(dim=1)).all()
    assert (twice[rows][short].norm(dim=1) > once[rows][short].norm(dim=1)).all()


def test_order_of_ids_and_ids_without_gradient_do_not_matter() -> None:
    weight, grad, _ = random_case(1)
    ids, counts = torch.tensor([11, 2, 5]), torch.tensor([1, 3, 2])
    wanted = cowclip_(weight, grad.clone(), ids.sort().values, counts[[1, 2, 0]])
    assert torch.equal(cowclip_(weight, grad.clone(), ids, counts), wanted)
    part = torch.sparse_coo_tensor(
        [[2, 5, 9]], grad[[2, 5, 9]], (20, 3), check_invariants=True
    ).coalesce()
    found = cowclip_(weight, part, ids, counts).to_dense()
    assert torch.equal(found[[2, 5]], wanted[[2, 5]]) and torch.equal(found[9], grad[9])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_edge_shapes(sparse: bool) -> None:
    weight, grad, _ = random_case(0)
    none = torch.empty(0, dtype=torch.int64)
    assert torch.equal(cowclip_(weight, dense_or_sparse(grad, sparse), none).to_dense(), grad)
    empty = torch.zeros_like(weight).to_sparse(1).coalesce()
    assert cowclip_(weight, empty, torch.tensor([1])).values().shape == (0, 3)
    zeros = torch.zeros_like(weight)
    found = cowclip_(zeros, torch.zeros_like(grad), torch.arange(20), bound=0.0)
    assert torch.equal(found, zeros)  # no division of zero by zero


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_half_precision_are_taken_in_float32(dtype: torch.dtype) -> None:
    weight, grad = torch.full((1, 4), 1e-4), torch.full((1, 4), 300.0)
    factor = row_factors(weight.to(dtype), grad.to(dtype), torch.ones(1), r=1.0, bound=0.0)
    wanted = row_factors(
        weight.to(dtype).double(), grad.to(dtype).double(), torch.ones(1), r=1.0, bound=0.0
    )
    assert factor.dtype == torch.float32 and 0 < factor < 1e-6
    torch.testing.assert_close(factor.double(), wanted, rtol=1e-6, atol=0)
    clipped = cowclip_(weight.to(dtype), grad.to(dtype), torch.tensor([0]))
    assert clipped.dtype == dtype and clipped.isfinite().all()


def test_what_is_not_finite_is_not_hidden() -> None:
    grad = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0]])
    clipped = cowclip_(torch.ones(2, 2), grad, torch.tensor([0, 1]))
    assert not clipped.isfinite().all(dim=1).any()


@pytest.mark.parametrize("word", [{"r": 0.0}, {"r": -1.0}, {"bound": -1e-9}, {"r": float("nan")}])
def test_refuses_settings(word: dict) -> None:
    with pytest.raises(RecipeError, match="r above 0 and a bound of at least 0"):
        cowclip_(WEIGHT, GRAD.clone(), IDS, **word)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ids": torch.tensor([0, 4])}, "run from 0 to 4, and the table has rows 0..3"),
        ({"ids": torch.tensor([-1, 2])}, "run from -1 to 2"),
        ({"ids": torch.tensor([0.0])}, "must be integers"),
        ({"ids": IDS, "counts": COUNTS[:3]}, "one for each id"),
        ({"ids": IDS, "counts": COUNTS - 1}, "at least 1, got 0"),
        ({"ids": torch.tensor([1, 1]), "counts": torch.tensor([1, 1])}, "must occur once"),
        ({"ids": IDS, "grad": GRAD[:, :1]}, "of one shape"),
        ({"ids": IDS, "grad": GRAD.to_sparse()}, "does not hold whole rows"),
        (
            {
                "ids": IDS,
                "grad": torch.sparse_coo_tensor([[0, 0]], GRAD[:2], (4, 2), check_invariants=True),
            },
            "not coalesced",
        ),
    ],
)
def test_refuses_tensors(arguments: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        cowclip_(**{"weight": WEIGHT, "grad": GRAD.clone(), **arguments})


def test_refuses_a_table_without_width() -> None:
    with pytest.raises(RecipeError, match="at least 1 entry, got 0"):
        norm_bound(0)
