import torch
from torch import Tensor, nn

from sartor.nn.litv2.conv_ffn import ConvFfn
from sartor.testing import LayerContract


class TestConvFfn(LayerContract):
    def layer(self) -> nn.Module:
        return ConvFfn(8, 24)

    def inputs(self) -> Tensor:
        return torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(0))


def test_zero_padding_tells_positions_apart() -> None:
    """On a constant map the inside is constant and the border is not."""
    with torch.no_grad():
        y = ConvFfn(8, 24)(torch.ones(1, 6, 6, 8))
    inside = y[:, 1:5, 1:5]
    assert torch.allclose(inside, inside[:, :1, :1].expand_as(inside), atol=1e-6)
    assert not torch.allclose(y[:, 0, 0], y[:, 2, 2], atol=1e-3)
