import pytest
import torch
from sklearn.metrics import roc_auc_score

from sartor.core import DataError
from sartor.data.auc import roc_auc


@pytest.mark.parametrize("ties", [False, True])
def test_equals_scikit_learn(ties: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (2, 3, 50, 1000):
        scores = torch.randn(count, generator=generator)
        scores = scores.round() if ties else scores
        labels = (torch.rand(count, generator=generator) < 0.3).float()
        labels[:2] = torch.tensor([0.0, 1.0])
        wanted = roc_auc_score(labels.numpy(), scores.numpy())
        assert roc_auc(scores, labels) == pytest.approx(wanted, abs=1e-12)


def test_its_ends_and_its_symmetry() -> None:
    scores, labels = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 0, 1, 1])
    assert (roc_auc(scores, labels), roc_auc(-scores, labels)) == (1.0, 0.0)
    assert roc_auc(torch.zeros(4), labels) == 0.5


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (torch.zeros(3), torch.zeros(3)),
        (torch.zeros(3), torch.ones(3)),
        (torch.zeros(3), torch.zeros(2)),
        (torch.zeros(3, 1), torch.zeros(3, 1)),
        (torch.zeros(0), torch.zeros(0)),
    ],
)
def test_refuses_what_has_no_auc(scores: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match="positives and negatives, got shapes"):
        roc_auc(scores, labels)


def test_refuses_nan() -> None:
    with pytest.raises(DataError, match="NaN"):
        roc_auc(torch.tensor([0.0, float("nan")]), torch.tensor([0, 1]))
