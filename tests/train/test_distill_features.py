"""Losses that read features, on the one training loop, between models of different kinds."""

import copy

import pytest
import torch
from torch import nn

from sartor.core import TrainingError
from sartor.losses import HintKD, ManifoldKD, OfaKD
from sartor.nn import tiny_vit
from sartor.testing import TinyConvNet, tiny_task
from sartor.train import TrainSettings, distill

SETTINGS = TrainSettings(epochs=1, lr=1e-3)
BLOCKS = ("blocks.0", "blocks.1")


def vit() -> nn.Module:
    torch.manual_seed(0)
    return tiny_vit(embed_dim=8, depth=2)


def conv() -> nn.Module:
    torch.manual_seed(0)
    return TinyConvNet(8, depth=2, num_classes=10)


@pytest.mark.parametrize(
    ("student", "teacher", "loss", "bridges"),
    [
        (vit, conv, lambda: OfaKD(BLOCKS, prefix=1, final_grid=2), 2),
        (conv, vit, lambda: OfaKD(("body.0", "body.1")), 2),
        (vit, conv, lambda: HintKD(BLOCKS, ("body.0", "body.1"), student_prefix=1), 2),
        (vit, conv, lambda: ManifoldKD(BLOCKS, ("body.0", "body.1"), student_prefix=1), 0),
        (
            vit,
            lambda: tiny_vit(embed_dim=16, depth=3),
            lambda: ManifoldKD(
                BLOCKS, ("blocks.0", "blocks.2"), student_prefix=1, teacher_prefix=1
            ),
            0,
        ),
    ],
    ids=["ofa: conv to vit", "ofa: vit to conv", "hints", "manifold: conv to vit", "manifold"],
)
def test_any_kind_teaches_any_kind(student, teacher, loss, bridges) -> None:
    learner, master, chosen = student(), teacher(), loss()
    fresh, kept = (copy.deepcopy(model.state_dict()) for model in (learner, master))
    report = distill(learner, master, tiny_task(), loss=chosen, settings=SETTINGS)
    assert report.loss == type(chosen).__name__ and len(report.bridges) == bridges
    assert (report.bridge_params > 0) == (bridges > 0)
    assert learner.state_dict().keys() == fresh.keys()
    assert any(not torch.equal(v, fresh[k]) for k, v in learner.state_dict().items())
    assert all(torch.equal(v, kept[k]) for k, v in master.state_dict().items())
    assert not any(m._forward_hooks for model in (learner, master) for m in model.modules())


def test_the_branches_move_while_they_serve() -> None:
    loss = OfaKD(BLOCKS, prefix=1, final_grid=2)
    seen: list[dict[str, torch.Tensor]] = []
    built = loss.prepare

    def prepare(*outputs: object) -> tuple[str, ...]:
        lines = built(*outputs)
        seen.append(copy.deepcopy(loss.state_dict()))
        return lines

    loss.prepare = prepare
    distill(vit(), conv(), tiny_task(), loss=loss, settings=SETTINGS)
    heads = [name for name in seen[0] if name.endswith("head.weight")]
    assert len(heads) == 2
    assert all(not torch.equal(loss.state_dict()[name], seen[0][name]) for name in heads)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda: OfaKD(BLOCKS), "17 tokens are not the patches of a square grid"),
        (lambda: OfaKD(("blocks.7",)), "no module 'blocks.7'"),
        (lambda: ManifoldKD(BLOCKS, ("body.0", "body.1")), "leave prefix tokens out"),
        (lambda: HintKD(BLOCKS, ("body.0", "body.1")), "17 tokens"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(loss, message: str) -> None:
    student = vit()
    fresh = copy.deepcopy(student.state_dict())
    with pytest.raises(TrainingError, match=message):
        distill(student, conv(), tiny_task(), loss=loss(), settings=SETTINGS)
    assert all(torch.equal(v, fresh[k]) for k, v in student.state_dict().items())
