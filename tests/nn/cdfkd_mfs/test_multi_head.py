"""Counts and shapes are those of the official classes, on trunks from timm and written here."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from sartor.core import FamilyError
from sartor.export import export
from sartor.nn.cdfkd_mfs.multi_head import (
    LastBlockHead,
    MultiHeadStudent,
    SepConv,
    multi_level_student,
)

K = 100


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def for_small_images(model: nn.Module) -> nn.Module:
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def resnet_trunk() -> nn.Module:
    model = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4))
    model["conv1"] = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model["maxpool"] = nn.Identity()
    return model


class WideBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inner), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
            nn.Conv2d(outer, outer, 3, padding=1, bias=False),
        )
        self.short = nn.Conv2d(inner, outer, 1, stride=stride, bias=False)
        self.equal = inner == outer
        if self.equal:
            self.short = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        active = self.first(x)
        return self.body(active) + (x if self.equal else self.short(active))


class WideTrunk(nn.Module):
    """Wide ResNet without its last norm and layer."""

    def __init__(self, depth: int, k: int) -> None:
        super().__init__()
        self.channels = (16 * k, 32 * k, 64 * k)
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        ins = (16, *self.channels[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                WideBlock(inner, outer, stride),
                *(WideBlock(outer, outer, 1) for _ in range((depth - 4) // 6 - 1)),
            )
            for inner, outer, stride in zip(ins, self.channels, (1, 2, 2), strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def wide_student(depth: int, k: int, heads: int) -> MultiHeadStudent:
    trunk = WideTrunk(depth, k)
    return multi_level_student(trunk, trunk.channels, num_heads=heads, num_classes=K)


def resnet_student(heads: int) -> MultiHeadStudent:
    trunk = resnet_trunk()
    return multi_level_student(trunk, trunk.feature_info.channels(), num_heads=heads, num_classes=K)


def test_the_models_that_it_is_compared_with_have_the_counts_of_the_paper() -> None:
    for name, params in (("resnet18", 11_220_132), ("resnet34", 21_328_292)):
        assert count(for_small_images(timm.create_model(name, num_classes=K))) == params
    for depth, params in ((40, 2_255_156), (16, 703_284)):
        trunk = WideTrunk(depth, 2)
        last = count(nn.BatchNorm2d(128)) + count(nn.Linear(128, K))
        assert count(trunk) + last == params


@pytest.mark.parametrize(
    ("heads", "params"), [(1, 13_500_580), (2, 15_832_328), (3, 18_164_076), (5, 22_827_572)]
)
def test_multi_head_resnet18(heads: int, params: int) -> None:
    assert count(resnet_student(heads)) == params


def test_multi_head_wide_resnets() -> None:
    assert count(wide_student(16, 2, 3)) == 1_158_140
    assert count(wide_student(16, 1, 3)) == 307_836


def test_heads_that_copy_the_last_block() -> None:
    trunk = resnet_trunk()
    heads = [LastBlockHead(copy.deepcopy(trunk["layer4"][1])) for _ in range(3)]
    trunk["layer4"][1] = nn.Identity()
    student = MultiHeadStudent(trunk, heads, num_features=512, num_classes=K)
    assert count(student) == 20_764_012
    assert student.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, K)


def test_a_separable_encoder() -> None:
    encoder = SepConv(64, 128)
    assert count(encoder) == 13_824
    assert encoder(torch.zeros(2, 64, 7, 8)).shape == (2, 128, 4, 4)
    assert all(m.bias is None for m in encoder if isinstance(m, nn.Conv2d))


def test_shapes_of_three_heads() -> None:
    with torch.no_grad():
        logits, features = resnet_student(3).forward_heads(torch.zeros(8, 3, 32, 32))
    assert logits.shape == (3, 8, 100) and features.shape == (3, 8, 512)


def test_the_prediction_is_the_mean_of_the_heads() -> None:
    student = wide_student(10, 1, 3).eval()
    images = torch.randn(4, 3, 16, 16)
    logits, features = student.forward_heads(images)
    torch.testing.assert_close(student(images), sum(logits) / 3)
    for layer, feature, logit in zip(student.classifiers, features, logits, strict=True):
        torch.testing.assert_close(layer(feature), logit)


def test_a_selection_of_heads_is_a_copy_with_their_logits() -> None:
    student = wide_student(10, 1, 3).eval()
    images = torch.randn(2, 3, 16, 16)
    kept = student.select_heads([2, 0])
    expected = student.forward_heads(images)[0]
    assert torch.equal(kept.forward_heads(images)[0], expected[[2, 0]])
    assert kept.num_heads == 2 and student.num_heads == 3
    nn.init.zeros_(kept.classifiers[0].weight)
    assert torch.equal(student.forward_heads(images)[0], expected)


@pytest.mark.parametrize("keep", [[], [0, 0], [3], [-1]])
def test_heads_that_do_not_exist_are_refused(keep: list[int]) -> None:
    with pytest.raises(FamilyError, match="some of 0 to 2, each once"):
        wide_student(10, 1, 3).select_heads(keep)


def test_stages_that_do_not_halve_are_refused() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x, x]

    student = multi_level_student(Flat(), (3, 3), num_heads=1, num_classes=2)
    with pytest.raises(FamilyError, match=r"Stage 1 of the trunk gives maps of \(8, 8\)"):
        student(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(("channels", "heads", "classes"), [((), 1, 2), ((4,), 0, 2), ((4,), 1, 0)])
def test_numbers_below_one_are_refused(channels, heads: int, classes: int) -> None:
    with pytest.raises(FamilyError, match="at least one"):
        multi_level_student(nn.Identity(), channels, num_heads=heads, num_classes=classes)


@pytest.mark.parametrize(
    ("format", "name"),
    [pytest.param("onnx", "s.onnx", marks=pytest.mark.slow), ("torch_export", "s.pt2")],
)
def test_a_student_is_exported_with_equal_numbers(tmp_path, format: str, name: str) -> None:
    student = wide_student(10, 1, 2).eval()
    assert export(student, torch.randn(2, 3, 16, 16), tmp_path / name, format=format).verified
