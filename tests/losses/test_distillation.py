import math

import pytest
import torch

from sartor.core import TrainingError
from sartor.losses import distillation_loss, kd_loss

Z = torch.tensor([[1, 2, 0.5], [0, -1, 3]])
T = torch.tensor([[2.0, 1, 0], [-1, 0.5, 2]])
Y = torch.tensor([0, 2])


@pytest.mark.parametrize(("temperature", "wanted"), [(1.0, 0.347529), (4.0, 0.508362)])
def test_the_cards_numbers(temperature: float, wanted: float) -> None:
    assert abs(kd_loss(Z, T, temperature).item() - wanted) < 1e-6


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_is_that_of_the_formula_and_reaches_the_student_alone(
    temperature: float,
) -> None:
    student, teacher = Z.clone().requires_grad_(), T.clone().requires_grad_()
    kd_loss(student, teacher, temperature).backward()
    wanted = temperature * ((Z / temperature).softmax(1) - (T / temperature).softmax(1)) / len(Z)
    torch.testing.assert_close(student.grad, wanted, atol=1e-6, rtol=0)
    assert teacher.grad is None


def test_agreement_costs_nothing() -> None:
    assert abs(kd_loss(Z, Z).item()) < 1e-7
    assert abs(kd_loss(Z, Z + torch.tensor([[3.0], [-5.0]]), 2.0).item()) < 1e-6


def test_cross_entropy_with_soft_targets_is_kd_plus_the_teachers_entropy() -> None:
    target = T.softmax(1)
    entropy = -(target * target.log()).sum(1).mean()
    cross = torch.nn.functional.cross_entropy(Z, target)
    torch.testing.assert_close(kd_loss(Z, T), cross - entropy)


def test_high_temperatures_approach_the_squared_distance() -> None:
    centred = (Z - Z.mean(1, keepdim=True)) - (T - T.mean(1, keepdim=True))
    limit = centred.square().sum(1).mean() / (2 * 3)
    assert abs(limit.item() - 0.527778) < 1e-6
    gaps = [abs(kd_loss(Z.double(), T.double(), t).item() - limit.item()) for t in (10, 100, 1000)]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[1] < 3e-4 and gaps[2] < 3e-5


def test_hard_labels_by_hand() -> None:
    def negative_log(row: list[float], label: int) -> float:
        return math.log(sum(math.exp(v) for v in row)) - row[label]

    labels = [negative_log([1, 2, 0.5], 0), negative_log([0, -1, 3], 2)]
    teachers = [negative_log([1, 2, 0.5], 0), negative_log([0, -1, 3], 2)]  # argmax of T: 0, 2
    wanted = 0.25 * sum(labels) / 2 + 0.75 * sum(teachers) / 2
    assert abs(distillation_loss(Z, Y, T, alpha=0.75).item() - wanted) < 1e-6
    other = T.flip(1)  # argmax: 2, 0
    teachers = [negative_log([1, 2, 0.5], 2), negative_log([0, -1, 3], 0)]
    wanted = 0.5 * sum(labels) / 2 + 0.5 * sum(teachers) / 2
    assert abs(distillation_loss(Z, Y, other).item() - wanted) < 1e-6


def test_soft_mode_and_the_ends_of_alpha() -> None:
    cross = torch.nn.functional.cross_entropy(Z, Y)
    torch.testing.assert_close(distillation_loss(Z, Y, T, alpha=0.0), cross)
    soft = distillation_loss(Z, Y, T, alpha=1.0, mode="soft", temperature=4.0)
    assert abs(soft.item() - 0.508362) < 1e-6
    own = distillation_loss(Z, Y, T, alpha=0.0, label_loss=lambda z, y: z.sum() + y.sum())
    torch.testing.assert_close(own, Z.sum() + Y.sum())


def test_no_gradient_flows_into_the_teacher() -> None:
    for mode in ("hard", "soft"):
        teacher = T.clone().requires_grad_()
        distillation_loss(Z.clone().requires_grad_(), Y, teacher, mode=mode).backward()
        assert teacher.grad is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "warm"}, "mode 'hard' or 'soft'.*'warm'"),
        ({"alpha": 1.1}, "alpha in .0, 1.*1.1"),
        ({"alpha": -0.1}, "-0.1"),
        ({"mode": "soft", "temperature": 0.0}, "above 0, got 0.0"),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        distillation_loss(Z, Y, T, **settings)


def test_logits_of_other_classes_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"\(2, 3\) and the teacher's \(2, 2\).*same classes"):
        kd_loss(Z, T[:, :2])
