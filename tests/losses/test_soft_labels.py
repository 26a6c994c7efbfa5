import math

import pytest
import torch
import torch.nn.functional as F

from sartor.core import TrainingError
from sartor.losses import Outputs, kd_loss
from sartor.losses.soft_labels import SoftLabelKD, soft_label_loss


def test_an_undecided_student_of_two_classes_costs_log_2_for_every_teacher() -> None:
    for teacher in ([0.0, 0.0], [3.0, -1.0], [-20.0, 20.0]):
        value = soft_label_loss(torch.zeros(1, 2), torch.tensor([teacher]))
        assert float(value) == pytest.approx(math.log(2), abs=1e-6)


def test_equal_logits_cost_the_teachers_entropy() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    entropies = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(soft_label_loss(logits, logits), entropies.mean())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradients_are_those_of_the_divergence(temperature: float) -> None:
    student = torch.randn(4, 5, requires_grad=True)
    teacher = torch.randn(4, 5)
    ours = torch.autograd.grad(soft_label_loss(student, teacher, temperature=temperature), student)
    theirs = torch.autograd.grad(kd_loss(student, teacher, temperature), student)
    torch.testing.assert_close(ours, theirs)


def test_the_teacher_gets_no_gradient() -> None:
    teacher = torch.randn(2, 3, requires_grad=True)
    loss = soft_label_loss(torch.randn(2, 3, requires_grad=True), teacher)
    loss.backward()
    assert teacher.grad is None


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(TrainingError, match="differ in shape"):
        soft_label_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(TrainingError, match="above 0, got 0"):
        soft_label_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0)


def test_labels_and_soft_labels_are_weighed_and_added() -> None:
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    loss = SoftLabelKD(weight=0.5, label_weight=2.0, temperature=3.0, label_smoothing=0.3)
    smooth = F.one_hot(labels, 3) * 0.7 + 0.3 / 3
    hard = -(smooth * student.log_softmax(1)).sum(1).mean()
    soft = -9 * ((teacher / 3).softmax(1) * (student / 3).log_softmax(1)).sum(1).mean()
    found = loss(Outputs(student), Outputs(teacher), labels)
    torch.testing.assert_close(found, 2 * hard + 0.5 * soft)


@pytest.mark.parametrize(
    "setting",
    [{"weight": -1}, {"label_weight": -1}, {"temperature": 0}, {"label_smoothing": 1.0}],
)
def test_settings_out_of_range_are_refused(setting: dict) -> None:
    with pytest.raises(TrainingError, match="SoftLabelKD takes weights >= 0"):
        SoftLabelKD(**setting)
