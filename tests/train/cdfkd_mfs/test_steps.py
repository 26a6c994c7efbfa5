"""The two steps against one plain backward through everything."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.core import TrainingError
from sartor.losses.batch_norm_statistics import batch_norm_distance
from sartor.nn.cdfkd_mfs.image_generators import ImageGenerator
from sartor.nn.sources import seeded
from sartor.reproduce.cdfkd_mfs_nets import conv_student, conv_teacher
from sartor.train.cdfkd_mfs.settings import DataFreeWeights
from sartor.train.cdfkd_mfs.steps import image_gradient, student_objective

WEIGHTS = DataFreeWeights()


@pytest.fixture
def teachers() -> list[nn.Module]:
    return [conv_teacher(seed).eval() for seed in range(3)]


def images() -> torch.Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def pooled(teacher: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return teacher[:-1](inputs)


def prior(teacher: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(())
    for number, block in enumerate(teacher[:4]):
        inputs = block[0](inputs)
        distance = batch_norm_distance(inputs, block[1].running_mean, block[1].running_var)
        total = total + (5 if number == 0 else 1) * distance
        inputs = block[2](block[1](inputs))
    return total


def test_the_students_loss_is_the_formula(teachers: list[nn.Module]) -> None:
    student, x = conv_student(3, seed=1), images()
    again = copy.deepcopy(student)
    loss = student_objective(student, teachers, x, WEIGHTS)
    logits, features = again.forward_heads(x)
    with torch.no_grad():
        outputs = [teacher(x) for teacher in teachers]
        pools = [pooled(teacher, x) for teacher in teachers]
    heads = sum(F.l1_loss(s, t) for s, t in zip(logits, outputs, strict=True)) / 3
    pairs = zip(features, pools, strict=True)
    widths = sum(F.l1_loss(f, g, reduction="sum") / len(x) for f, g in pairs) / 3
    ensemble = F.l1_loss(sum(logits) / 3, sum(outputs) / 3)
    torch.testing.assert_close(loss, heads + 0.2 * widths + 5 * ensemble)


def test_the_generators_gradient_is_that_of_one_plain_backward(teachers: list[nn.Module]) -> None:
    student = conv_student(3, seed=1).train()
    again, x = copy.deepcopy(student), images()
    gradient, distance, familiar = image_gradient(student, teachers, x, WEIGHTS)

    leaf = x.clone().requires_grad_()
    logits = again.forward_heads(leaf)[0]
    apart = sum(F.l1_loss(s, t(leaf)) for s, t in zip(logits, teachers, strict=True)) / 3
    expected = sum(prior(teacher, leaf) for teacher in teachers) / 3
    (whole,) = torch.autograd.grad(0.1 * expected - apart, leaf)
    torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close((distance, familiar), (apart.detach(), expected.detach()))


def test_features_and_mean_logits_are_not_in_the_generators_loss(teachers: list) -> None:
    student, x = conv_student(3, seed=1).eval(), images()
    first = image_gradient(student, teachers, x, WEIGHTS)
    other = DataFreeWeights(feature=9.0, ensemble=9.0, head=9.0)
    for ours, theirs in zip(first, image_gradient(student, teachers, x, other), strict=True):
        assert torch.equal(ours, theirs)


def test_no_step_leaves_gradients_where_they_do_not_belong(teachers: list[nn.Module]) -> None:
    student = conv_student(3, seed=1).train()
    with seeded(0):
        generator = ImageGenerator(latent_dim=4, image_size=8, channels=1, width=8)
        made = generator(torch.randn(6, 4))
    before = [p.clone() for p in student.parameters()]
    made.backward(image_gradient(student, teachers, made, WEIGHTS)[0])
    assert all(p.grad is not None for p in generator.parameters())
    assert all(p.grad is None for m in (student, *teachers) for p in m.parameters())
    generator.zero_grad()

    student_objective(student, teachers, made.detach(), WEIGHTS).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for m in (generator, *teachers) for p in m.parameters())
    assert all(map(torch.equal, before, student.parameters()))


def test_the_students_statistics_move_and_the_teachers_do_not(teachers: list[nn.Module]) -> None:
    student = conv_student(3, seed=1).train()
    kept = [b.clone() for t in teachers for b in t.buffers()]
    moved = [b.clone() for b in student.buffers()]
    image_gradient(student, teachers, images(), WEIGHTS)
    assert all(map(torch.equal, kept, (b for t in teachers for b in t.buffers())))
    assert not any(map(torch.equal, moved, student.buffers()))


def test_one_teacher_without_extras_is_adversarial_distillation(teachers: list) -> None:
    plain = DataFreeWeights(feature=0.0, ensemble=0.0, statistics=0.0)
    student, x = conv_student(1, seed=1).eval(), images()
    leaf = x.clone().requires_grad_()
    apart = F.l1_loss(student(leaf), teachers[0](leaf))
    (expected,) = torch.autograd.grad(-apart, leaf)
    gradient, distance, familiar = image_gradient(student, teachers[:1], x, plain)
    torch.testing.assert_close(gradient, expected)
    assert float(distance) == pytest.approx(apart.item()) and float(familiar) == 0
    assert student_objective(student, teachers[:1], x, plain).item() == pytest.approx(apart.item())


def test_an_ensemble_of_one_counts_as_its_head(teachers: list[nn.Module]) -> None:
    student, x = conv_student(1, seed=1).eval(), images()
    six = DataFreeWeights(head=6.0, ensemble=0.0, feature=0.0)
    one_and_five = DataFreeWeights(head=1.0, ensemble=5.0, feature=0.0)
    torch.testing.assert_close(
        *(student_objective(student, teachers[:1], x, w) for w in (six, one_and_five))
    )


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"feature": -0.1}, "must be >= 0"),
        ({"head": float("nan")}, "must be >= 0"),
        ({"head": 0, "feature": 0, "ensemble": 0}, "student would learn nothing"),
        ({"statistics": 0, "adversarial": 0}, "generator would learn nothing"),
    ],
)
def test_weights_that_teach_nothing_are_refused(weights: dict, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        DataFreeWeights(**weights)
