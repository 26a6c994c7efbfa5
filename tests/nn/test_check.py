from __future__ import annotations

import pytest
import torch
from torch import nn

from sartor.core import Family, FamilyError
from sartor.nn import check_family


def _family(**models: nn.Module) -> Family:
    return Family.of(models)


def test_models_of_one_shape_pass_and_stay_as_they_were() -> None:
    mixed = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    mixed[0].eval()
    check_family(_family(a=nn.Linear(3, 5), b=mixed), torch.ones(1, 3), 5)
    assert mixed.training and mixed[1].training and not mixed[0].training
    assert float(mixed[1].running_mean.abs().max()) == 0  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"a": nn.Linear(3, 5), "b": nn.Linear(4, 5)}, "'b' does not take.*that the model 'a'"),
        ({"a": nn.Linear(4, 5)}, r"'a' does not take the inputs of shape \(3,\) that the task has"),
        ({"a": nn.Linear(3, 5), "b": nn.Linear(3, 6)}, r"'a' and 'b'.*\(1, 5\) and \(1, 6\)"),
        ({"a": nn.Linear(3, 6)}, r"'a' gives outputs of shape \(1, 6\) and the task has 5"),
        ({"a": nn.LSTM(3, 5)}, "it returns a tuple and not a tensor"),
    ],
)
def test_models_that_are_no_family(models: dict[str, nn.Module], message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        check_family(_family(**models), torch.ones(1, 3), 5)


def test_outputs_of_any_shape_without_classes() -> None:
    check_family(_family(a=nn.Identity(), b=nn.ReLU()), torch.ones(1, 3, 4), None)
