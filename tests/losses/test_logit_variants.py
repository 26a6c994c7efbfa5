import pytest
import torch

from sartor.core import TrainingError
from sartor.losses import bkd_loss, dist_loss, dkd_loss, kd_loss

Z = torch.tensor([[1, 2, 0.5], [0, -1, 3]])
T = torch.tensor([[2.0, 1, 0], [-1, 0.5, 2]])
Y = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("found", "wanted", "within"),
    [
        (bkd_loss(Z, T), 0.848008, 1e-6),
        (dkd_loss(Z, T, Y), 0.951849, 1e-6),
        # the released code masks with -1000 in single precision: exact is 3.5015374
        (dkd_loss(Z, T, Y, alpha=1, beta=8, temperature=4), 3.501546, 1e-5),
        (dist_loss(Z, T), 0.552267, 1e-6),
        (dist_loss(Z, T, beta=2, gamma=2, temperature=4), 15.101875, 1e-6),
    ],
    ids=["bkd", "dkd", "dkd-1-8-4", "dist", "dist-2-2-4"],
)
def test_the_cards_numbers(found: torch.Tensor, wanted: float, within: float) -> None:
    assert abs(found.item() - wanted) < within


def test_decoupled_with_the_rests_weight_is_kd() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        z, t = torch.randn(2, 1, 5, generator=generator, dtype=torch.float64)
        y = torch.randint(5, (1,), generator=generator)
        beta = 1 - t.softmax(1)[0, y].item()
        torch.testing.assert_close(dkd_loss(z, t, y, alpha=1, beta=beta), kd_loss(z, t))


def test_dkd_of_soft_targets_takes_the_largest() -> None:
    soft = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    assert torch.equal(dkd_loss(Z, T, soft), dkd_loss(Z, T, Y))


def test_dkd_survives_certainty() -> None:
    sure = torch.tensor([[400.0, 0, 0]]).requires_grad_()
    value = dkd_loss(sure, torch.tensor([[-400.0, 0, 1]]), torch.tensor([0]))
    value.backward()
    assert torch.isfinite(value) and bool(torch.isfinite(sure.grad).all())


def test_relations_ignore_affine_maps_of_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    p, scale = t.softmax(1), torch.rand(6, 1, generator=generator, dtype=torch.float64) + 0.2
    # the softmax of a logarithm is its normalised argument: affine by row as well
    per_row = (scale * p + 0.1 * scale.flip(0)).log()
    assert abs(dist_loss(per_row, t, gamma=0).item()) < 1e-6
    assert dist_loss(per_row, t, beta=0).item() > 1e-3
    # moved towards one constant row, each class is an affine map of what it was
    per_class = (0.5 * p + 0.5 * p[:1]).log()
    assert abs(dist_loss(per_class, t, beta=0).item()) < 1e-6
    assert dist_loss(per_class, t, gamma=0).item() > 1e-3


def test_agreement_costs_nothing() -> None:
    assert abs(dkd_loss(Z, Z, Y).item()) < 1e-6 and abs(dist_loss(Z, Z).item()) < 1e-6
    p = Z.softmax(1)
    entropy = -(p * Z.sigmoid().log() + (1 - p) * (1 - Z.sigmoid()).log()).mean()
    torch.testing.assert_close(bkd_loss(Z, Z), entropy)


def test_no_gradient_flows_into_the_teacher() -> None:
    for loss in (bkd_loss, lambda z, t: dkd_loss(z, t, Y), dist_loss):
        student, teacher = Z.clone().requires_grad_(), T.clone().requires_grad_()
        loss(student, teacher).backward()
        assert teacher.grad is None and student.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: dkd_loss(Z, T, Y, temperature=0),
        lambda: dkd_loss(Z, T, Y, beta=-1),
        lambda: dist_loss(Z, T, gamma=-1),
        lambda: dist_loss(Z, T, temperature=-1.0),
    ],
)
def test_settings_out_of_range_are_refused(call) -> None:
    with pytest.raises(TrainingError, match="temperature above 0 and weights of at least 0"):
        call()


def test_batches_that_do_not_fit_are_refused() -> None:
    for loss in (bkd_loss, lambda z, t: dkd_loss(z, t, Y), dist_loss):
        with pytest.raises(TrainingError, match=r"\(2, 3\) and the teacher's \(2, 2\).*same"):
            loss(Z, T[:, :2])
    with pytest.raises(TrainingError, match=r"at least 2 inputs in it, got 1; use drop_last"):
        dist_loss(Z[:1], T[:1])
