import copy

import pytest
import torch

from sartor.core import DataError, TrainingError
from sartor.nn.cdfkd_mfs.head_attention import AttentiveStudent
from sartor.reproduce.cdfkd_mfs_nets import conv_student
from sartor.train.cdfkd_mfs.head_attention import fit_head_attention_


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(20, 1, 8, 8, generator=draw)
    return [(images[:12], torch.arange(12) % 10), (images[12:], torch.arange(8) % 10)]


def test_it_learns_and_leaves_the_student_as_it_was() -> None:
    student = conv_student(3, seed=0).train()
    torch.manual_seed(0)
    model = AttentiveStudent(student)
    before = copy.deepcopy(student.state_dict())
    losses = fit_head_attention_(model, batches(), steps=50)
    assert len(losses) == 50 and losses[-1] < losses[0]
    assert all(map(torch.equal, before.values(), student.state_dict().values()))
    assert all(p.grad is None for p in student.parameters()) and not model.training


def test_it_finds_the_head_that_is_right() -> None:
    student = conv_student(2, seed=0).eval()
    labels = torch.full((16,), 3)
    with torch.no_grad():
        student.classifiers[0].bias[3] = 2.0  # always right
        student.classifiers[1].bias[4] = 2.0  # always wrong
    torch.manual_seed(0)
    model = AttentiveStudent(student)
    images = torch.randn(16, 1, 8, 8)
    fit_head_attention_(model, [(images, labels)], steps=200)
    weights = model.attention(student.forward_heads(images)[1])
    assert (weights[0] > 0.9).all()


def test_bad_inputs_are_refused() -> None:
    model = AttentiveStudent(conv_student(2, seed=0))
    with pytest.raises(DataError, match="no image to learn the attention from"):
        fit_head_attention_(model, [])
    for setting in ({"steps": 0}, {"lr": 0}, {"weight_decay": -1}):
        with pytest.raises(TrainingError, match="steps >= 1, lr > 0"):
            fit_head_attention_(model, batches(), **setting)
    images, labels = batches()[0]
    with pytest.raises(TrainingError, match="became nan; lower lr"):
        fit_head_attention_(model, [(images * float("nan"), labels)])
