import math

import pytest
import torch
from torch import nn

from sartor.core import TrainingError
from sartor.losses.batch_norm_statistics import (
    BatchNormStatistics,
    batch_norm_distance,
    tracking_norms,
)

#: channel 0 holds 1, 3, 5, 7 and channel 1 holds 0, 2, 4, 6, over two images
CARD = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]], [[[5.0, 7.0]], [[4.0, 6.0]]]])


def two_norms() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3))
    model = nn.Sequential(*layers, nn.BatchNorm2d(3)).eval()
    model[1].running_mean.normal_()
    model[4].running_var.uniform_(0.5, 2)
    return model


def test_the_number_of_the_card() -> None:
    norm = nn.BatchNorm2d(2).eval()
    with BatchNormStatistics(norm) as statistics:
        norm(CARD)
        value = statistics.loss(first_weight=1.0)
    assert float(value) == pytest.approx(4 * math.sqrt(2) + 5, abs=1e-5)
    assert float(value) == pytest.approx(10.656854, abs=1e-5)


def test_the_first_norm_counts_five_times_and_the_others_once() -> None:
    model, images = two_norms(), torch.randn(6, 1, 8, 8)
    parts = []
    for stop in (1, 4):
        inputs = model[:stop](images).double()  # what the norm reads, channel by channel
        channels = [inputs[:, c].flatten().tolist() for c in range(inputs.shape[1])]
        means = [sum(c) / len(c) for c in channels]
        variances = [
            sum((x - m) ** 2 for x in c) / len(c) for c, m in zip(channels, means, strict=True)
        ]
        kept = zip(model[stop].running_mean.tolist(), model[stop].running_var.tolist(), strict=True)
        found = zip(means, variances, strict=True)
        gaps = [(m - km, v - kv) for (m, v), (km, kv) in zip(found, kept, strict=True)]
        parts.append(math.hypot(*(g[0] for g in gaps)) + math.hypot(*(g[1] for g in gaps)))
    with BatchNormStatistics(model) as statistics:
        model(images)
        assert statistics.loss().item() == pytest.approx(5 * parts[0] + parts[1], rel=1e-5)


def test_images_of_equal_statistics_cost_nothing() -> None:
    norm = nn.BatchNorm2d(2, momentum=1.0)
    images = torch.randn(32, 2, 4, 4)
    norm(images)
    norm.running_var *= 511 / 512  # torch keeps the unbiased variance, the loss takes the biased
    with BatchNormStatistics(norm.eval()) as statistics:
        norm(images)
        assert float(statistics.loss()) < 1e-5


def test_the_gradient_reaches_the_images() -> None:
    model, images = two_norms(), torch.randn(4, 1, 8, 8, requires_grad=True)
    with BatchNormStatistics(model) as statistics:
        model(images)
        (gradient,) = torch.autograd.grad(statistics.loss(), images)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(3), (4, 3)),
        (nn.BatchNorm1d(3), (4, 3, 5)),
        (nn.BatchNorm3d(3), (4, 3, 2, 2, 2)),
    ],
)
def test_norms_of_every_dimension(norm: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape)
    assert (
        float(batch_norm_distance(inputs, inputs.transpose(0, 1).flatten(1).mean(1), torch.ones(3)))
        > 0
    )
    with BatchNormStatistics(norm.eval()) as statistics:
        norm(inputs)
        assert statistics.loss().ndim == 0


def test_hooks_are_gone_after_the_block_even_if_it_fails() -> None:
    model = two_norms()
    with pytest.raises(RuntimeError, match="expected input"), BatchNormStatistics(model):
        model(torch.randn(2, 7, 8, 8))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_every_loss_is_of_what_ran_since_the_last_one() -> None:
    model, images = two_norms(), torch.randn(4, 1, 8, 8)
    with BatchNormStatistics(model) as statistics:
        model(images)
        first = statistics.loss()
        model(images)
        assert torch.equal(statistics.loss(), first)
        with pytest.raises(TrainingError, match="has not run inside the block"):
            statistics.loss()


def test_norms_that_keep_nothing_do_not_count() -> None:
    bare = nn.BatchNorm2d(2, track_running_stats=False)
    assert tracking_norms(nn.Sequential(bare, nn.BatchNorm2d(2))) != []
    for model in (bare, nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))):
        with pytest.raises(TrainingError, match="no batch norm that keeps statistics"):
            BatchNormStatistics(model)


def test_one_image_has_no_variance() -> None:
    with pytest.raises(TrainingError, match="at least 2 images, got 1"):
        batch_norm_distance(torch.zeros(1, 2, 4, 4), torch.zeros(2), torch.ones(2))
