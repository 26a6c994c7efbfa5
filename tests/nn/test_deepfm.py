import itertools

import pytest
import torch

from sartor.core import FamilyError
from sartor.nn.deepfm import DeepFM, pairwise_interactions


def test_interactions_equal_the_sum_over_pairs() -> None:
    embedded = torch.randn(4, 5, 3, dtype=torch.float64)
    pairs = itertools.combinations(range(5), 2)
    wanted = sum((embedded[:, i] * embedded[:, j]).sum(1) for i, j in pairs)
    torch.testing.assert_close(pairwise_interactions(embedded), wanted)


def test_its_parts_add_up_and_fields_do_not_share_rows() -> None:
    torch.manual_seed(0)
    model = DeepFM((3, 2), embed_dim=2, hidden=(4,), init_std=1.0)
    logits = model(torch.tensor([[2, 1]]))
    rows = model.embedding.weight[[2, 4]]  # the second field starts at row 3
    deep = model.mlp(rows.reshape(1, 4))[0, 0]
    linear = model.linear.weight[[2, 4]].sum()
    torch.testing.assert_close(logits[0], deep + rows[0] @ rows[1] + linear + model.bias)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
def test_sizes(hidden: tuple[int, ...]) -> None:
    model = DeepFM((7, 5), embed_dim=3, hidden=hidden)
    widths = (6, *hidden, 1)
    mlp = sum(a * b + b for a, b in itertools.pairwise(widths))
    assert sum(p.numel() for p in model.parameters()) == 12 * 3 + 12 + 1 + mlp
    assert model(torch.zeros(0, 2, dtype=torch.int64)).shape == (0,)


def test_tables_start_with_the_asked_deviation_and_gradients_may_be_sparse() -> None:
    model = DeepFM((4000,), embed_dim=4, hidden=(4,), init_std=1e-4, sparse=True)
    assert model.embedding.weight.std().item() == pytest.approx(1e-4, rel=0.05)
    assert model.embedding.sparse and model.linear.sparse


@pytest.mark.parametrize(
    "words",
    [
        {"cardinalities": ()},
        {"cardinalities": (3, 0)},
        {"embed_dim": 0},
        {"hidden": (0,)},
        {"init_std": -1.0},
    ],
)
def test_refuses(words: dict) -> None:
    with pytest.raises(FamilyError, match="at least one field, sizes of at least 1"):
        DeepFM(**{"cardinalities": (3, 4), **words})
