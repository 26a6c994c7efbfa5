import pytest
import torch
from torch import nn

from sartor.core import FamilyError
from sartor.nn.cdfkd_mfs.image_generators import DCGANGenerator, ImageGenerator, generator_for
from sartor.nn.sources import seeded


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameters_are_those_of_the_official_classes() -> None:
    assert count(ImageGenerator(latent_dim=256, image_size=32, channels=3)) == 2_329_091
    assert count(DCGANGenerator(latent_dim=256, image_size=128, channels=3)) == 11_243_203
    assert count(DCGANGenerator(image_size=128, normalize=True)) == 11_243_203


def test_a_batch_has_mean_0_and_almost_variance_1() -> None:
    with seeded(0):
        generator = ImageGenerator(latent_dim=256, image_size=32, channels=3)
        images = generator(torch.randn(64, 256))
    variance, mean = torch.var_mean(images, dim=(0, 2, 3), correction=0)
    assert mean.abs().max() < 1e-6
    assert variance.tolist() == pytest.approx([0.998] * 3, abs=1e-3)


def test_norms_have_the_eps_of_the_official_code() -> None:
    norms = [m for m in ImageGenerator().modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.eps for norm in norms] == [1e-5, 0.8, 0.8, 1e-5]
    assert [norm.momentum for norm in norms] == [0.1] * 4
    assert [norm.affine for norm in norms] == [True, True, True, False]


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (12, 2)])
def test_images_have_the_size_asked(size: int, channels: int) -> None:
    generator = ImageGenerator(latent_dim=5, image_size=size, channels=channels, width=8)
    assert generator(torch.randn(2, 5)).shape == (2, channels, size, size)


@pytest.mark.parametrize("normalize", [False, True])
def test_dcgan_images_lie_where_they_are_said_to(normalize: bool) -> None:
    with seeded(0):
        generator = DCGANGenerator(latent_dim=6, image_size=32, normalize=normalize)
        images = generator(torch.randn(8, 6))
    assert images.shape == (8, 3, 32, 32)
    assert (images.abs().max() > 1) == normalize


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ImageGenerator(image_size=30), "multiple of 4, got 30; take 32"),
        (lambda: DCGANGenerator(image_size=100), "multiple of 16, got 100; take 96"),
        (lambda: ImageGenerator(width=7), "width of a generator must be even, got 7"),
        (lambda: ImageGenerator(latent_dim=0), "at least 1, got 0, 32 and 3"),
        (lambda: DCGANGenerator(channels=0), "at least 1, got 256, 224 and 0"),
    ],
)
def test_sizes_out_of_range_are_refused(make, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        make()


def test_generators_follow_the_size() -> None:
    assert isinstance(generator_for((3, 32, 32)), ImageGenerator)
    assert isinstance(generator_for((1, 128, 128)), DCGANGenerator)
    with pytest.raises(FamilyError, match="square images"):
        generator_for((3, 32, 48))
