"""Generators of images from noise, for distillation where there are no images.

Source: Hao, Luo, Wang, Hu, An, CDFKD-MFS, IEEE Transactions on Multimedia 2022, arXiv 2205.11845,
    and, for the transposed convolutions, Radford, Metz, Chintala, DCGAN, 2016, arXiv 1511.06434.
    Deviations: none. The norms inside the first generator have an eps of 0.8, as its authors' code
    does, which damps channels of small variance.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = ["DCGANGenerator", "ImageGenerator", "generator_for"]

INNER_EPS = 0.8
SLOPE = 0.2


class ImageGenerator(nn.Module):
    """Noise to small images: two nearest upsamplings, each followed by a convolution.

    In training mode each channel of a batch has mean 0 and variance 1, which is where models expect
    images after normalisation.

    Args:
        latent_dim: length of a noise vector, at least 1.
        image_size: height and width of the images, a multiple of 4.
        channels: of the images.
        width: channels inside, even.

    Raises:
        FamilyError: a number is out of range.

    Example:
        >>> import torch
        >>> generator = ImageGenerator(latent_dim=256, image_size=32, channels=3)
        >>> sum(p.numel() for p in generator.parameters())
        2329091
        >>> generator(torch.randn(2, 256)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self, *, latent_dim: int = 256, image_size: int = 32, channels: int = 3, width: int = 128
    ) -> None:
        super().__init__()
        _check(latent_dim, image_size, channels, unit=4)
        if width < 2 or width % 2:
            raise FamilyError(f"The width of a generator must be even, got {width}; 128 is usual.")
        self.latent_dim, self.image_size, self.channels = latent_dim, image_size, channels
        self.grid = image_size // 4
        self.project = nn.Linear(latent_dim, width * self.grid**2)
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width, eps=INNER_EPS),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2, eps=INNER_EPS),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(width // 2, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Noise (B, latent_dim) -> images (B, C, H, W)."""
        maps = self.project(latents).unflatten(1, (-1, self.grid, self.grid))  # (B, W, H/4, W/4)
        images: Tensor = self.body(maps)
        return images


class DCGANGenerator(nn.Module):
    """Noise to larger images: four transposed convolutions, from a sixteenth of the size on.

    Args:
        latent_dim: length of a noise vector, at least 1.
        image_size: height and width of the images, a multiple of 16.
        channels: of the images.
        normalize: whether a norm without weights gives each channel of a batch mean 0 and variance
            1 (224 pixels in the paper); without it images lie in [-1, 1] (128 pixels).

    Raises:
        FamilyError: a number is out of range.

    Example:
        >>> generator = DCGANGenerator(latent_dim=256, image_size=128, channels=3)
        >>> sum(p.numel() for p in generator.parameters())
        11243203
    """

    def __init__(
        self,
        *,
        latent_dim: int = 256,
        image_size: int = 224,
        channels: int = 3,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        _check(latent_dim, image_size, channels, unit=16)
        self.latent_dim, self.image_size, self.channels = latent_dim, image_size, channels
        self.grid = image_size // 16
        self.project = nn.Linear(latent_dim, 512 * self.grid**2)
        layers: OrderedDict[str, nn.Module] = OrderedDict(norm=nn.BatchNorm2d(512))
        for number, (inner, outer) in enumerate(((512, 256), (256, 128), (128, 64), (64, 64))):
            layers[f"up{number}"] = nn.Sequential(
                nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outer),
                nn.LeakyReLU(SLOPE, inplace=True),
            )
        layers["image"] = nn.Sequential(nn.Conv2d(64, channels, 3, padding=1), nn.Tanh())
        if normalize:
            layers["normalize"] = nn.BatchNorm2d(channels, affine=False)
        self.body = nn.Sequential(layers)

    def forward(self, latents: Tensor) -> Tensor:
        """Noise (B, latent_dim) -> images (B, C, H, W)."""
        maps = self.project(latents).unflatten(1, (-1, self.grid, self.grid))  # (B, 512, H/16, ...)
        images: Tensor = self.body(maps)
        return images


def generator_for(input_shape: Sequence[int]) -> nn.Module:
    """A generator of images (C, H, H): upsampling up to 64 pixels, transposed convolutions above.

    Raises:
        FamilyError: the shape is not that of square images, or their size not a multiple of 4,
            above 64 of 16.
    """
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise FamilyError(
            f"Generators make square images (C, H, H), the task has inputs {tuple(input_shape)}; "
            "give a generator of your own."
        )
    channels, size = input_shape[0], input_shape[1]
    if size <= 64:
        return ImageGenerator(image_size=size, channels=channels)
    return DCGANGenerator(image_size=size, channels=channels, normalize=True)


def _check(latent_dim: int, image_size: int, channels: int, *, unit: int) -> None:
    if min(latent_dim, image_size, channels) < 1:
        raise FamilyError(
            "The latent_dim, image_size and channels of a generator must be at least 1, got "
            f"{latent_dim}, {image_size} and {channels}."
        )
    if image_size % unit:
        raise FamilyError(
            f"The image_size of this generator must be a multiple of {unit}, got {image_size}; "
            f"take {max(unit, round(image_size / unit) * unit)}."
        )
