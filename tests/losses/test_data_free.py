import pytest
import torch

from sartor.core import TrainingError
from sartor.losses.data_free import ensemble_loss, feature_loss, head_loss

STUDENT = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])  # two heads, one image, two classes
TEACHER = torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]])


def test_hand_cases() -> None:
    assert float(head_loss(STUDENT, TEACHER)) == (1 + 2 + 1 + 1) / 4
    assert float(ensemble_loss(STUDENT, TEACHER)) == (0 + 1.5) / 2  # means (0.5, 1), (0.5, 2.5)
    assert float(feature_loss(STUDENT, list(TEACHER))) == ((1 + 2) + (1 + 1)) / 2


def test_agreement_costs_nothing() -> None:
    logits = torch.randn(3, 4, 5)
    assert float(head_loss(logits, logits)) == float(ensemble_loss(logits, logits)) == 0
    assert float(feature_loss(logits, list(logits))) == 0


def test_the_ensemble_is_never_farther_than_its_heads() -> None:
    for seed in range(5):
        ours, theirs = torch.randn(2, 3, 8, 5, generator=torch.Generator().manual_seed(seed))
        assert ensemble_loss(ours, theirs) <= head_loss(ours, theirs)
        one = ours[:1], theirs[:1]
        assert torch.equal(ensemble_loss(*one), head_loss(*one))


def test_features_are_summed_over_channels_and_not_averaged() -> None:
    narrow = feature_loss(torch.zeros(1, 4, 3), [torch.ones(4, 3)])
    wide = feature_loss(torch.zeros(1, 4, 6), [torch.ones(4, 6)])
    assert (float(narrow), float(wide)) == (3.0, 6.0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"\(2, 1, 2\) and the teachers' \(3, 1, 2\)"):
        head_loss(STUDENT, torch.zeros(3, 1, 2))
    with pytest.raises(TrainingError, match="differ in shape"):
        ensemble_loss(STUDENT, torch.zeros(2, 1, 3))
    with pytest.raises(TrainingError, match=r"width 2 and the teacher's width 5.*feature weight"):
        feature_loss(STUDENT, [torch.zeros(1, 5)] * 2)
    with pytest.raises(TrainingError, match="2 heads and 1 teachers"):
        feature_loss(STUDENT, [torch.zeros(1, 2)])
