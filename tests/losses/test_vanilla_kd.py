import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy

from sartor.core import TrainingError
from sartor.losses import Outputs, VanillaKD, bce_loss, kd_loss

Z = torch.tensor([[1, 2, 0.5], [0, -1, 3]])
T = torch.tensor([[2.0, 1, 0], [-1, 0.5, 2]])
Y = torch.tensor([0, 2])


def test_it_is_labels_plus_the_cards_number() -> None:
    for loss, labels in ((F.cross_entropy, F.cross_entropy(Z, Y)), (bce_loss, bce_loss(Z, Y))):
        found = VanillaKD(label_loss=loss)(Outputs(Z), Outputs(T), Y)
        assert abs((found - labels).item() - 0.347529) < 1e-6
    weighed = VanillaKD(temperature=4, label_weight=0, teacher_weight=0.5)
    assert abs(weighed(Outputs(Z), Outputs(T), Y).item() - 0.508362 / 2) < 1e-6


def test_a_teacher_that_agrees_leaves_the_labels() -> None:
    shifted = Outputs(Z + torch.tensor([[2.0], [-7.0]]))
    found = VanillaKD()(Outputs(Z), shifted, Y)
    torch.testing.assert_close(found, F.cross_entropy(Z, Y))


def test_the_gradient_reaches_the_student_alone() -> None:
    student, teacher = Z.clone().requires_grad_(), T.clone().requires_grad_()
    VanillaKD()(Outputs(student), Outputs(teacher), Y).backward()
    wanted = (2 * Z.softmax(1) - F.one_hot(Y, 3) - T.softmax(1)) / 2
    torch.testing.assert_close(student.grad, wanted, atol=1e-6, rtol=0)
    assert teacher.grad is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_that_of_timm(smoothing: float) -> None:
    torch.testing.assert_close(
        bce_loss(Z, Y, smoothing), BinaryCrossEntropy(smoothing=smoothing)(Z, Y)
    )


def test_mixed_targets_are_taken_as_they_are() -> None:
    mixed = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]])
    rows = [
        -(t * math.log(1 / (1 + math.exp(-z))) + (1 - t) * math.log(1 / (1 + math.exp(z))))
        for z, t in zip(Z.flatten().tolist(), mixed.flatten().tolist(), strict=True)
    ]
    assert abs(bce_loss(Z, mixed, 0.1).item() - sum(rows) / 6) < 1e-6
    found = VanillaKD(label_loss=bce_loss)(Outputs(Z), Outputs(T), mixed)
    torch.testing.assert_close(found, bce_loss(Z, mixed) + kd_loss(Z, T))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resnet50", 25_557_032),
        ("vit_tiny_patch16_224", 5_717_416),
        ("vit_small_patch16_224", 22_050_664),
        ("convnextv2_tiny", 28_635_496),
    ],
)
def test_the_papers_students_have_the_cards_sizes(name: str, params: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == params


@pytest.mark.parametrize(
    ("settings", "given"),
    [({"temperature": 0}, "0, 1.0"), ({"label_weight": -1}, "-1"), ({"teacher_weight": -1}, "-1")],
)
def test_refusals(settings: dict, given: str) -> None:
    with pytest.raises(TrainingError, match=f"temperature above 0.*{given}"):
        VanillaKD(**settings)


def test_bad_targets_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"in \[0, 1\), got 1.0"):
        bce_loss(Z, Y, 1.0)
    with pytest.raises(TrainingError, match=r"\(2, 2\) do not fit logits of shape \(2, 3\)"):
        bce_loss(Z, torch.zeros(2, 2))
