"""Gates and convolutions among the operations of AutoRF's cells: all keep a map's size.

Source: Dong, Niu, Wei, Pan, Li, Huang, AutoRF: Auto Learning Receptive Fields with Spatial Pooling,
    MultiMedia Modeling 2023, in the form of its released code. Squeeze and excitation: Hu et al.,
    2018, arXiv 1709.01507; CBAM: Woo et al., 2018, arXiv 1807.06521. Deviations: none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = [
    "CBAM",
    "ChannelGate",
    "ConvGate",
    "SpatialGate",
    "dilated_layers",
    "factorised_conv",
    "separable_layers",
]


class ChannelGate(nn.Module):
    """Squeeze and excitation: each channel times a sigmoid of what all channels' means say.

    Args:
        channels: C.
        reduction: of the hidden channels.
        maximum: whether the channels' maxima go through the same layers, to be added.
        bias: of both layers.
    """

    def __init__(
        self, channels: int, reduction: int = 4, *, maximum: bool = False, bias: bool = False
    ) -> None:
        super().__init__()
        self.maximum = maximum
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1, bias=bias)
        self.expand = nn.Conv2d(channels // reduction, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        logits = self._logits(x.mean((2, 3), keepdim=True))
        if self.maximum:
            logits = logits + self._logits(x.amax((2, 3), keepdim=True))
        return x * logits.sigmoid()

    def _logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.expand(self.squeeze(pooled).relu())
        return logits


class ConvGate(nn.Module):
    """The map times a sigmoid of layers over it.

    Args:
        layers: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.layers(x).sigmoid()


class SpatialGate(nn.Module):
    """Each pixel times a sigmoid of layers over the maximum and the mean of its channels.

    Args:
        layers: (B, 2, H, W) -> (B, 1, H, W).
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        pooled = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), dim=1)
        return x * self.layers(pooled).sigmoid()


class CBAM(nn.Sequential):
    """Convolutional block attention: a gate of channels by means and maxima, then one of pixels by
    a 7 x 7 convolution.

    Args:
        channels: C.
        reduction: of the hidden channels.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        window = (nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01))
        super().__init__(
            ChannelGate(channels, reduction, maximum=True, bias=True),
            SpatialGate(nn.Sequential(*window)),
        )


def separable_layers(channels: int, outputs: int, size: int, *, affine: bool) -> nn.Sequential:
    """Make two depthwise separable convolutions with norms, and a ReLU between them.

    Args:
        channels: C.
        outputs: channels that come out.
        size: of the windows, odd.
        affine: whether norms have gains and shifts.
    """
    return nn.Sequential(
        *_separable(channels, channels, size, affine=affine),
        nn.ReLU(),
        *_separable(channels, outputs, size, affine=affine),
    )


def dilated_layers(channels: int, size: int, *, affine: bool) -> nn.Sequential:
    """Make a depthwise separable convolution whose windows leave out every other pixel.

    Args:
        channels: C.
        size: of the windows in pixels that are read, odd; they span 2 size - 1.
        affine: whether the norm has gains and shifts.
    """
    return nn.Sequential(*_separable(channels, channels, size, dilation=2, affine=affine))


def factorised_conv(channels: int, size: int, *, affine: bool) -> nn.Sequential:
    """Make a ReLU, a 1 x size and a size x 1 convolution in groups of 4 channels, and a norm.

    Args:
        channels: C, a multiple of 4.
        size: odd.
        affine: whether the norm has gains and shifts.
    """
    half, groups = size // 2, channels // 4
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, size), padding=(0, half), groups=groups, bias=False),
        nn.Conv2d(channels, channels, (size, 1), padding=(half, 0), groups=groups, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def _separable(
    channels: int, outputs: int, size: int, *, affine: bool, dilation: int = 1
) -> tuple[nn.Module, ...]:
    around = {"padding": dilation * (size // 2), "dilation": dilation, "groups": channels}
    return (
        nn.Conv2d(channels, channels, size, bias=False, **around),
        nn.Conv2d(channels, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs, affine=affine),
    )
