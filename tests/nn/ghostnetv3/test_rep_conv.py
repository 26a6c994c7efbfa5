from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from sartor.core import FamilyError, TrainingError
from sartor.nn.ghostnetv3.rep_conv import RepConvBN, centred, folded, identity_kernel
from sartor.nn.sources import seeded
from sartor.testing import LayerContract


def randomised(layer: nn.Module, seed: int = 0) -> nn.Module:
    """With trained-looking statistics, gains and shifts."""
    draw = torch.Generator().manual_seed(seed)
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(generator=draw)
            norm.running_var.uniform_(0.5, 2, generator=draw)
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=draw)
            nn.init.normal_(norm.bias, generator=draw)
    return layer


def made(
    channels: tuple[int, int] = (8, 8), kernel: int | tuple[int, int] = 3, **kwargs: int
) -> RepConvBN:
    conv = nn.Conv2d(*channels, kernel, bias=False, **{"padding": 1, **kwargs})
    return RepConvBN(conv, nn.BatchNorm2d(channels[1]))


class TestRepConvBN(LayerContract):
    unused: ClassVar = {}

    def layer(self) -> nn.Module:
        return made()

    def inputs(self) -> Tensor:
        return torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))


CASES = {
    "3 x 3": {},
    "strided": {"stride": 2},
    "depthwise": {"groups": 8},
    "in groups": {"groups": 2},
    "5 x 5 strided": {"kernel": 5, "padding": 2, "stride": 2, "groups": 8},
    "1 x 1": {"kernel": 1, "padding": 0},
    "dilated": {"padding": 2, "dilation": 2},
    "other channels": {"channels": (8, 12)},
}


@pytest.mark.parametrize("case", CASES)
def test_one_convolution_does_the_same(case: str) -> None:
    with seeded(0):
        layer = randomised(made(**CASES[case])).eval()
        inputs = torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        expected, found = layer(inputs), layer.fuse()(inputs)
    assert type(layer.fuse()) is nn.Conv2d
    assert torch.allclose(expected, found, rtol=1e-5, atol=1e-5)


def test_the_branches_are_those_of_the_paper() -> None:
    """3 convolutions, 1 x 1 where the kernel is larger, identity where shapes stay."""
    full, point, strided, wider = (
        made(),
        made(kernel=1, padding=0),
        made(stride=2),
        made(channels=(8, 12)),
    )
    assert len(full.convs) == 3 and full.scale is not None and full.identity is not None
    assert point.scale is None and point.identity is not None
    assert strided.scale is not None and strided.scale.stride == (2, 2)
    assert strided.identity is None and wider.identity is None
    assert len(full.added_norms) == 4


def test_a_trained_pair_keeps_its_function() -> None:
    with seeded(0):
        conv, norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), randomised(nn.BatchNorm2d(4))
        inputs = torch.randn(2, 4, 5, 5)
        layer = RepConvBN(conv, norm).eval()
    with torch.no_grad():
        assert torch.equal(layer(inputs), norm.eval()(conv(inputs)))


def test_the_hand_case_of_an_identity() -> None:
    norm = nn.BatchNorm2d(1, eps=1.0)
    norm.running_mean.fill_(1)
    norm.running_var.fill_(3)
    nn.init.constant_(norm.weight, 2)
    nn.init.constant_(norm.bias, 0.5)
    kernel, bias = folded(centred(identity_kernel(1, 1), (3, 3)), norm)
    assert kernel[0, 0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]] and bias.item() == -0.5


def test_gradients_reach_every_branch() -> None:
    layer = randomised(made())
    torch.compile(layer, backend="eager")(torch.randn(2, 8, 5, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize(
    ("conv", "norm", "branches", "message"),
    [
        (nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), 3, "without a bias"),
        (nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(3), 3, "2 and 3 channels"),
        (nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2), 0, "and 0"),
        (nn.Conv2d(2, 2, 2, bias=False), nn.BatchNorm2d(2), 3, "odd kernel"),
        (nn.Conv2d(2, 2, 3, bias=False), nn.BatchNorm2d(2), 3, "odd kernel"),
        (nn.Conv2d(2, 2, 3, padding="same", bias=False), nn.BatchNorm2d(2), 3, "odd kernel"),
    ],
)
def test_what_cannot_be_folded_is_refused(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, branches: int, message: str
) -> None:
    with pytest.raises(FamilyError, match=message):
        RepConvBN(conv, norm, branches)


def test_an_even_kernel_has_equal_branches_alone() -> None:
    conv = nn.Conv2d(2, 2, 2, bias=False)
    layer = randomised(RepConvBN(conv, nn.BatchNorm2d(2), 2, False, False)).eval()
    inputs = torch.randn(1, 2, 5, 5)
    with torch.no_grad():
        assert torch.allclose(layer(inputs), layer.fuse()(inputs), atol=1e-5)


def test_training_mode_and_missing_statistics_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"eval\(\)"):
        made().train().fuse()
    with pytest.raises(FamilyError, match="running statistics"):
        folded(torch.ones(1, 1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False))
