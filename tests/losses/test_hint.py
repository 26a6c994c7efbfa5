import pytest
import torch
import torch.nn.functional as F

from sartor.core import TrainingError
from sartor.losses.distillation import kd_loss
from sartor.losses.distiller import Outputs
from sartor.losses.hint import HintKD, feature_map

Y = torch.tensor([0, 1])


def outputs(seed: int, *shape: int) -> Outputs:
    draw = torch.Generator().manual_seed(seed)
    feature = torch.randn(2, *shape, generator=draw)
    return Outputs(torch.randn(2, 3, generator=draw), {"a": feature})


def test_the_loss_is_the_sum_of_its_parts() -> None:
    student, teacher = outputs(0, 16, 5), outputs(1, 7, 4, 4)
    loss = HintKD(["a"], ["a"], weight=0.5, temperature=4.0)
    assert loss.prepare(student, teacher) == ("a goes from (5, 4, 4) to (7, 4, 4)",)
    (project,) = loss.projectors
    projected = student.features["a"] @ project.weight[:, :, 0, 0].T + project.bias  # (B, 16, 7)
    gap = (projected - teacher.features["a"].flatten(2).transpose(1, 2)).square().mean()
    wanted = F.cross_entropy(student.logits, Y) + kd_loss(student.logits, teacher.logits, 4.0)
    torch.testing.assert_close(loss(student, teacher, Y), wanted + 0.5 * gap)


@pytest.mark.parametrize("shape", [(7, 8, 8), (7, 2, 2), (7, 3, 5), (64, 7)])
def test_every_grid_is_bridged_and_the_projector_learns(shape: tuple[int, ...]) -> None:
    student, teacher = outputs(0, 16, 5), outputs(1, *shape)
    loss = HintKD(["a"], ["a"])
    loss.prepare(student, teacher)
    loss(student, teacher, Y).backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())


def test_channels_last_is_said_for_each_side() -> None:
    student, teacher = outputs(0, 3, 4, 5), outputs(1, 7, 3, 4)
    loss = HintKD(["a"], ["a"], channels_last=(True, False))
    assert loss.prepare(student, teacher) == ("a goes from (5, 3, 4) to (7, 3, 4)",)
    assert loss(student, teacher, Y).isfinite()


def test_hints_that_are_met_cost_nothing() -> None:
    student = outputs(0, 5, 4, 4)
    loss = HintKD(["a"], ["a"], label_loss=lambda z, y: z.sum() * 0)
    loss.prepare(student, student)
    with torch.no_grad():
        loss.projectors[0].weight.copy_(torch.eye(5)[:, :, None, None])
        loss.projectors[0].bias.zero_()
    assert loss(student, student, Y).item() < 1e-10


def test_maps_stay_and_tokens_lie_row_by_row() -> None:
    maps = torch.randn(2, 5, 3, 4)
    assert feature_map(maps) is maps
    tokens = torch.arange(18.0).reshape(1, 9, 2)
    assert torch.equal(feature_map(tokens)[0, :, 1, 2], tokens[0, 5])


@pytest.mark.parametrize(("shape", "prefix"), [((2, 8), 0), ((2, 1, 8), 1)])
def test_features_that_are_neither(shape: tuple[int, ...], prefix: int) -> None:
    with pytest.raises(TrainingError, match=f"prefix of {prefix}"):
        feature_map(torch.zeros(shape), prefix)


def test_refusals() -> None:
    with pytest.raises(TrainingError, match="1 taps of the student and 0 of the teacher"):
        HintKD(["a"], [])
    with pytest.raises(TrainingError, match=r"got -1\.0"):
        HintKD(["a"], ["a"], weight=-1.0)
    with pytest.raises(TrainingError, match=r"prepare\(student, teacher\)"):
        HintKD(["a"], ["a"])(outputs(0, 16, 5), outputs(1, 16, 5), Y)
