import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.core import TrainingError
from sartor.losses.distillation import kd_loss
from sartor.losses.distiller import Outputs
from sartor.losses.ofa_kd import OfaKD, ofa_loss
from sartor.losses.taps import FeatureTaps

Z = torch.tensor([[1, 2, 0.5], [0, -1, 3]])
T = torch.tensor([[2.0, 1, 0], [-1, 0.5, 2]])
Y = torch.tensor([0, 2])


# --- the function -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "gamma", "wanted"),
    [
        (1.0, 1.0, 1.074519),
        (1.0, 1.2, 1.031535),
        (1.0, 1.5, 1.102561),
        (1.0, 2.0, 1.456950),
        (4.0, 1.0, 1.097488),
        (4.0, 1.2, 1.032211),
        (4.0, 1.5, 1.012959),
        (4.0, 2.0, 1.135760),
    ],
)
def test_the_cards_numbers(temperature: float, gamma: float, wanted: float) -> None:
    got = ofa_loss(Z, T, Y, gamma=gamma, temperature=temperature).item()
    assert abs(got - wanted) < 1e-6


def test_both_forms_by_hand() -> None:
    def softmax(row: list[float]) -> list[float]:
        total = sum(math.exp(v) for v in row)
        return [math.exp(v) / total for v in row]

    code = paper = 0.0
    for z, t, label in zip(Z.tolist(), T.tolist(), Y.tolist(), strict=True):
        for k, (q, p) in enumerate(zip(softmax(z), softmax(t), strict=True)):
            m = float(k == label)
            code -= ((p + m) ** 1.3 - m) * math.log(q) / 2
            paper -= ((1 + p) ** 1.3 if m else p) * math.log(q) / 2
    assert abs(ofa_loss(Z, T, Y, gamma=1.3).item() - code) < 1e-6
    assert abs(ofa_loss(Z, T, Y, gamma=1.3, form="paper").item() - paper) < 1e-6


def test_at_gamma_1_it_is_soft_cross_entropy_and_its_gradient_that_of_kd() -> None:
    target = T.softmax(1)
    entropy = -(target * target.log()).sum(1).mean()
    torch.testing.assert_close(ofa_loss(Z, T, Y), F.cross_entropy(Z, target))
    torch.testing.assert_close(ofa_loss(Z, T, Y) - kd_loss(Z, T), entropy)
    paper = F.cross_entropy(Z, target) + F.cross_entropy(Z, Y)
    torch.testing.assert_close(ofa_loss(Z, T, Y, form="paper"), paper)
    students = [Z.clone().requires_grad_() for _ in range(2)]
    ofa_loss(students[0], T, Y).backward()
    kd_loss(students[1], T).backward()
    torch.testing.assert_close(students[0].grad, students[1].grad)


def test_a_student_that_equals_the_teacher_is_left_with_its_entropy() -> None:
    target = T.softmax(1)
    student = T.clone().requires_grad_()
    value = ofa_loss(student, T, Y)
    torch.testing.assert_close(value.detach(), -(target * target.log()).sum(1).mean())
    value.backward()
    assert student.grad.abs().max() < 1e-7


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("gamma", [1.0, 1.4, 3.0])
def test_invariants(form: str, gamma: float) -> None:
    settings = {"gamma": gamma, "form": form}
    value = ofa_loss(Z, T, Y, **settings)
    assert value.isfinite() and value >= 0
    shift = torch.tensor([[3.0], [-5.0]])
    torch.testing.assert_close(ofa_loss(Z + shift, T - shift, Y, **settings), value)
    torch.testing.assert_close(ofa_loss(Z, T, F.one_hot(Y, 3).float(), **settings), value)
    mixed = torch.tensor([[0.6, 0.4, 0.0], [0.3, 0.0, 0.7]])
    torch.testing.assert_close(ofa_loss(Z, T, mixed, **settings), value)
    student, teacher = Z.clone().requires_grad_(), T.clone().requires_grad_()
    ofa_loss(student, teacher, Y, **settings).backward()
    assert teacher.grad is None and student.grad.isfinite().all()


def test_half_precision_does_not_underflow() -> None:
    far = torch.tensor([[100.0, 0.0, -100.0]], dtype=torch.bfloat16)
    assert ofa_loss(far, far.flip(1), torch.tensor([0]), gamma=1.2).isfinite()


@pytest.mark.parametrize(
    ("student", "teacher", "targets", "settings", "message"),
    [
        (Z, T[:, :2], Y, {}, r"\(2, 3\).*\(2, 2\).*same classes"),
        (Z[0], T[0], Y, {}, r"\(3,\)"),
        (Z, T, Y[:1], {}, r"labels \(batch,\).*got \(1,\)"),
        (Z, T, torch.zeros(2, 4), {}, r"got \(2, 4\)"),
        (Z, T, Y, {"gamma": 0.9}, "at least 1, got 0.9"),
        (Z, T, Y, {"gamma": float("nan")}, "at least 1, got nan"),
        (Z, T, Y, {"temperature": 0.0}, "above 0, got 0.0"),
        (Z, T, Y, {"form": "text"}, "'code' or 'paper', got 'text'"),
    ],
)
def test_refusals(
    student: torch.Tensor,
    teacher: torch.Tensor,
    targets: torch.Tensor,
    settings: dict,
    message: str,
) -> None:
    with pytest.raises(TrainingError, match=message):
        ofa_loss(student, teacher, targets, **settings)


# --- the module ---------------------------------------------------------------------------------


def small_student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def seen(model: nn.Module, loss: OfaKD, images: torch.Tensor) -> Outputs:
    with FeatureTaps(model, loss.student_taps) as taps:
        return Outputs(model(images), taps.take())


def ready(student: nn.Module, **settings: object) -> tuple[OfaKD, torch.Tensor, Outputs]:
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    loss = OfaKD(("1", "2"), **settings)
    teacher = Outputs(torch.randn(6, 3, generator=torch.Generator().manual_seed(2)))
    loss.prepare(seen(student, loss, images), teacher)
    return loss, images, teacher


def test_the_terms_sum_to_the_loss_and_each_has_its_gamma_and_weight() -> None:
    student = small_student()
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    loss, images, teacher = ready(student, gamma=(1.1, 1.3, 1.5), weights=(0.5, 2.0, 3.0))
    loss.eval()
    out = seen(student, loss, images)
    terms = loss.terms(out, teacher, targets)
    assert list(terms) == ["labels", "logits", "1", "2"]
    torch.testing.assert_close(terms["labels"], 0.5 * F.cross_entropy(out.logits, targets))
    wanted = 2 * ofa_loss(out.logits, teacher.logits, targets, gamma=1.5)
    torch.testing.assert_close(terms["logits"], wanted)
    for tap, branch, gamma in zip(("1", "2"), loss.branches, (1.1, 1.3), strict=True):
        logits = branch(out.features[tap])
        wanted = 3 * ofa_loss(logits, teacher.logits, targets, gamma=gamma)
        torch.testing.assert_close(terms[tap], wanted)
    torch.testing.assert_close(loss(out, teacher, targets), sum(terms.values()))


def test_branches_train_with_the_student_and_leave_it_as_it_was() -> None:
    student = small_student()
    before = copy.deepcopy(student)
    loss, images, teacher = ready(student)
    value = loss(seen(student, loss, images), teacher, torch.zeros(6, dtype=torch.int64))
    assert torch.equal(student(images), before(images))  # bit-identical
    value.backward()
    for parameter in (*student.parameters(), *loss.parameters()):
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert student.state_dict().keys() == before.state_dict().keys()
    names = " ".join(name for name, _ in student.named_modules())
    assert "branch" not in names and not any(m._forward_hooks for m in student.modules())


def test_the_report_names_every_branch_and_the_width_follows_the_last_stage() -> None:
    student = small_student()
    images = torch.zeros(2, 1, 8, 8)
    loss = OfaKD(("1", "2"))
    lines = loss.prepare(seen(student, loss, images), Outputs(torch.zeros(2, 3)))
    sizes = [sum(p.numel() for p in branch.parameters()) for branch in loss.branches]
    assert lines == (
        f"1 (4, 8, 8) goes to logits through {sizes[0]} parameters",
        f"2 (8, 8, 8) goes to logits through {sizes[1]} parameters",
    )
    assert [branch.head.in_features for branch in loss.branches] == [8, 8]
    wide = OfaKD(("1", "2"), width=20)
    wide.prepare(seen(student, wide, images), Outputs(torch.zeros(2, 3)))
    assert [branch.head.in_features for branch in wide.branches] == [20, 20]


def test_without_stages_it_is_labels_and_logits() -> None:
    loss = OfaKD((), gamma=1.2)
    assert loss.prepare(Outputs(Z), Outputs(T)) == () and not list(loss.parameters())
    wanted = F.cross_entropy(Z, Y) + ofa_loss(Z, T, Y, gamma=1.2)
    torch.testing.assert_close(loss(Outputs(Z), Outputs(T), Y), wanted)


def test_channels_last_maps_are_tokens() -> None:
    maps = torch.randn(2, 4, 4, 8)  # (B, H, W, C), as Swin's
    out = Outputs(Z, {"a": maps})
    loss = OfaKD(("a",), channels_last=True, final_grid=2)
    loss.prepare(out, Outputs(T))
    (branch,) = loss.branches
    assert branch.head.in_features == 8 and branch.blocks[0].norm1.normalized_shape == (8,)
    wanted = ofa_loss(branch(maps.flatten(1, 2)), T, Y)
    torch.testing.assert_close(loss.terms(out, Outputs(T), Y)["a"], wanted)


def test_it_reads_the_teachers_logits_alone() -> None:
    assert OfaKD(("1",)).teacher_taps == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": (1.0, 1.0)}, "2 stages take one gamma or 3.*got 2"),
        ({"gamma": (1.0, 1.0, 1.0, 1.0)}, "got 4"),
        ({"gamma": (1.0, 0.5, 1.0)}, "at least 1, got 0.5"),
        ({"weights": (1.0, -1.0, 1.0)}, "3 weights of at least 0"),
        ({"weights": (1.0, 1.0)}, "3 weights of at least 0"),
        ({"temperature": -1.0}, "above 0, got -1.0"),
        ({"form": "x"}, "got 'x'"),
    ],
)
def test_settings_that_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        OfaKD(("1", "2"), **settings)


def test_branches_must_be_built_first() -> None:
    loss = OfaKD(("1",))
    with pytest.raises(TrainingError, match=r"prepare\(student, teacher\)"):
        loss(Outputs(Z, {"1": torch.zeros(2, 4, 4, 4)}), Outputs(T), Y)


def test_a_teacher_of_other_classes_is_refused() -> None:
    student = small_student()
    loss, images, _ = ready(student)
    with pytest.raises(TrainingError, match="same classes"):
        loss(seen(student, loss, images), Outputs(torch.zeros(6, 4)), torch.zeros(6).long())
