import pytest
import torch
from torch import nn

from sartor.core import TrainingError
from sartor.nn.cdfkd_mfs.image_generators import ImageGenerator
from sartor.reproduce.cdfkd_mfs_nets import conv_student, conv_teacher
from sartor.train.cdfkd_mfs.checks import check_data_free
from sartor.train.cdfkd_mfs.settings import DataFreeWeights

WEIGHTS = DataFreeWeights()


def generator(**kwargs: int) -> ImageGenerator:
    return ImageGenerator(**{"latent_dim": 4, "image_size": 8, "channels": 1, "width": 8, **kwargs})


def check(teachers: list[nn.Module], weights: DataFreeWeights = WEIGHTS, **more) -> None:
    student = conv_student(more.pop("heads", len(teachers)), seed=0)
    check_data_free(student, teachers, more.pop("generator", generator()), weights, **more)


def other(classes: int = 10, width: int = 32, norm: bool = True) -> nn.Module:
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width) if norm else nn.Identity()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def test_what_fits_passes() -> None:
    check([conv_teacher(0), other()], classes=[["a", "b"], ["a", "b"]])


def test_heads_and_teachers_are_counted() -> None:
    with pytest.raises(TrainingError, match="1 teachers and 3 heads"):
        check([conv_teacher(0)], heads=3)


def test_other_classes_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"Teacher 1 gives outputs of shape \(7,\)"):
        check([conv_teacher(0), other(classes=7)])


def test_other_orders_of_classes_are_refused() -> None:
    with pytest.raises(TrainingError, match="Teacher 1 does not have the classes of teacher 0"):
        check([conv_teacher(0), other()], classes=[["a", "b"], ["b", "a"]])
    with pytest.raises(TrainingError, match="classes of 1 teachers and 2 teachers"):
        check([conv_teacher(0), other()], classes=[["a", "b"]])


def test_images_that_a_teacher_does_not_take_are_refused() -> None:
    bad = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(49), nn.Linear(49, 10))
    with pytest.raises(
        TrainingError, match=r"does not take the generator's images of shape \(1, 8"
    ):
        check([bad])


def test_a_teacher_returns_logits_alone() -> None:
    class Pair(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, images

    with pytest.raises(TrainingError, match="Teacher 0 returns a tuple; wrap it"):
        check([Pair()])


def test_a_teacher_that_is_broken_is_refused() -> None:
    teacher = other()
    nn.init.constant_(teacher[-1].bias, float("nan"))
    with pytest.raises(TrainingError, match="Teacher 0 gives outputs that are not finite"):
        check([teacher])


def test_a_teacher_without_batch_norm_needs_the_prior_off() -> None:
    untracked = other()
    untracked[1] = nn.BatchNorm2d(32, track_running_stats=False)
    for teacher in (other(norm=False), untracked):
        with pytest.raises(TrainingError, match="no batch norm that keeps statistics"):
            check([teacher])
        check([teacher], DataFreeWeights(statistics=0.0))


def test_unequal_widths_need_the_feature_term_off() -> None:
    with pytest.raises(TrainingError, match="features of width 16 and the student of width 32"):
        check([other(width=16)])
    check([other(width=16)], DataFreeWeights(feature=0.0))


def test_a_generator_says_how_long_its_noise_is() -> None:
    with pytest.raises(TrainingError, match="has no latent_dim"):
        check([conv_teacher(0)], generator=nn.Linear(4, 64))


def test_nothing_is_kept_from_the_check() -> None:
    teacher = conv_teacher(0).train()
    check([teacher])
    assert teacher.training and not any(m._forward_pre_hooks for m in teacher.modules())
    assert torch.equal(teacher[0][1].num_batches_tracked, torch.tensor(0))
