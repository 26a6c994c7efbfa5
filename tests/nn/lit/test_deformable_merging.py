import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import DataError
from sartor.nn.lit.deformable_merging import DeformableTokenMerging, param_groups, read_taps
from sartor.testing import LayerContract


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def learned(in_chs: int = 8, out_chs: int = 16, **kwargs: object) -> DeformableTokenMerging:
    """One whose offsets are not zero."""
    layer = DeformableTokenMerging(in_chs, out_chs, **kwargs)
    nn.init.normal_(layer.offset.weight, std=0.3)
    nn.init.normal_(layer.offset.bias, std=0.5)
    return layer


class TestMerging(LayerContract):
    def layer(self) -> nn.Module:
        return learned(channels_last=True)

    def inputs(self) -> Tensor:
        return noise(2, 4, 6, 8)

    def output_shape(self) -> tuple[int, ...]:
        return (2, 2, 3, 16)


def test_channels_first_are_the_same_maps() -> None:
    last, x = learned(channels_last=True).eval(), noise(2, 8, 4, 6)
    first = DeformableTokenMerging(8, 16).eval()
    first.load_state_dict(last.state_dict())
    with torch.no_grad():
        assert torch.equal(first(x), last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_the_hand_case_of_the_card() -> None:
    layer = DeformableTokenMerging(8, 16).eval()
    with torch.no_grad():
        for p in (*layer.conv.parameters(), *layer.offset.parameters()):
            p.copy_(0.3 * torch.sin(0.7 * torch.arange(p.numel()).double()).view_as(p))
    n, c = torch.arange(16.0)[:, None], torch.arange(8.0)
    x = torch.cos(0.37 * (8 * n + c)).T.reshape(1, 8, 4, 4)
    with torch.no_grad():
        y, offsets = layer(x, return_offsets=True)
    expected = [
        *(-0.042764, 0.229060, 0.272711, 0.265237),
        *(0.111905, -0.132447, -0.222944, -0.338231),
    ]
    assert offsets[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    first = [-0.004012, 0.112933, 0.185021, 0.149362]
    assert y[0, :4, 0, 0].tolist() == pytest.approx(first, abs=1e-6)
    assert float(y.sum()) == pytest.approx(2.035914, abs=5e-6)


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (2, 2)])
def test_torchvision_agrees(size: tuple[int, int]) -> None:
    """The sampled map under a strided convolution is torchvision's deformable convolution."""
    from torchvision.ops import deform_conv2d

    layer, x = learned().double(), noise(3, 8, *size, dtype=torch.float64)
    offsets = 3 * noise(3, 8, size[0] // 2, size[1] // 2, seed=1, dtype=torch.float64)
    theirs = deform_conv2d(x, offsets, layer.conv.weight, layer.conv.bias, stride=2)
    assert torch.allclose(layer.conv(read_taps(x, offsets, 2)), theirs, atol=1e-12)


def test_torchvision_agrees_on_gradients() -> None:
    from torchvision.ops import deform_conv2d

    layer = learned().double()
    grads = []
    for deformed in (
        lambda x, o: layer.conv(read_taps(x, o, 2)),
        lambda x, o: deform_conv2d(x, o, layer.conv.weight, layer.conv.bias, stride=2),
    ):
        x = noise(2, 8, 6, 6, dtype=torch.float64).requires_grad_()
        o = noise(2, 8, 3, 3, seed=1, dtype=torch.float64).requires_grad_()
        y = deformed(x, o)
        (y * noise(*y.shape, seed=2, dtype=torch.float64)).sum().backward()
        grads.append((x.grad, o.grad))
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_a_kernel_of_three_agrees_too() -> None:
    from torchvision.ops import deform_conv2d

    layer = learned(4, 6, kernel_size=3).double()
    x, o = noise(2, 4, 6, 9, dtype=torch.float64), noise(2, 18, 2, 3, dtype=torch.float64)
    theirs = deform_conv2d(x, o, layer.conv.weight, layer.conv.bias, stride=3)
    assert torch.allclose(layer.conv(read_taps(x, o, 3)), theirs, atol=1e-12)


@pytest.mark.parametrize("size", [8, 56])
def test_a_fresh_one_is_a_strided_convolution(size: int) -> None:
    layer, x = DeformableTokenMerging(8, 16).eval(), noise(2, 8, size, size)
    with torch.no_grad():
        plain = F.gelu(layer.norm(F.conv2d(x, layer.conv.weight, layer.conv.bias, stride=2)))
        assert float((layer(x) - plain).abs().max()) <= 1e-6


def test_offsets_are_rows_then_columns() -> None:
    """An image shifted by one row is read by a dy of one, not by a dx."""
    x, offsets = noise(1, 3, 8, 8), torch.zeros(1, 2, 2, 2, 4, 4)
    offsets[:, :, :, 0] = 1
    shifted = F.pad(x, (0, 0, 0, 1))[:, :, 1:]
    assert torch.allclose(read_taps(x, offsets.view(1, 8, 4, 4), 2), shifted, atol=1e-5)


def test_half_precision_reads_the_right_pixels() -> None:
    """bfloat16 itself cannot count to 257."""
    x = noise(1, 2, 4, 512).bfloat16()
    read = read_taps(x, torch.zeros(1, 8, 2, 256, dtype=torch.bfloat16), 2)
    assert read.dtype == torch.bfloat16
    assert torch.allclose(read.float(), x.float(), atol=0.01, rtol=0.01)


@pytest.mark.parametrize(("dim", "params"), [(96, 77_384), (192, 302_216), (384, 1_194_248)])
def test_parameters_of_the_card(dim: int, params: int) -> None:
    layer = DeformableTokenMerging(dim, 2 * dim)
    assert sum(p.numel() for p in layer.parameters()) == params


def test_only_the_offsets_weights_learn_slowly() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), DeformableTokenMerging(8, 16))
    groups = param_groups(model, lr=1e-2, weight_decay=0.1)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [
        (1e-2, 0.1),
        (pytest.approx(1e-4), 0.1),
        (1e-2, 0.0),
    ]
    assert groups[1]["params"] == [model[1].offset.weight]
    assert any(p is model[1].offset.bias for p in groups[2]["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("size", [(5, 4), (4, 7)])
def test_odd_maps_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"multiples of 2, got {size[0]} x {size[1]}"):
        DeformableTokenMerging(4, 8)(torch.zeros(1, 4, *size))


def test_one_value_a_channel_cannot_be_normalised() -> None:
    layer = DeformableTokenMerging(4, 8)
    with pytest.raises(DataError, match="batches of at least 2"):
        layer(torch.zeros(1, 4, 2, 2))
    assert layer.eval()(torch.zeros(1, 4, 2, 2)).shape == (1, 8, 1, 1)
