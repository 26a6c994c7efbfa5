import pytest
import torch
from torch import Tensor

from sartor.core import DataError
from sartor.nn.bamboo.masked_patches import (
    masked_loss,
    normalised_patches,
    patchify,
    random_mask,
    unpatchify,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_patches_are_those_of_the_image() -> None:
    images = noise(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    fourth = images[1, :, 4:8, 0:4].permute(1, 2, 0).flatten()
    assert torch.equal(patches[1, 3], fourth)
    assert torch.equal(unpatchify(patches, 4, (2, 3)), images)


def test_shuffle_is_undone() -> None:
    values, order = noise(3, 10, seed=1), noise(3, 10)
    seen, restore, mask = random_mask(order, 4)
    shuffled = values.gather(1, order.argsort(dim=1))
    assert torch.equal(shuffled.gather(1, restore), values)
    assert torch.equal(mask.sum(dim=1), torch.full((3,), 6.0))
    assert not mask.gather(1, seen).any()
    assert (order.gather(1, seen).amax(dim=1) <= (order + 9 * (1 - mask)).amin(dim=1)).all()


def test_loss_of_the_exact_target_and_of_zero() -> None:
    """64 patches at ratio 0.75: 16 seen, 48 hidden. The unbiased variance makes 1 a (n - 1) / n."""
    target = normalised_patches(patchify(noise(2, 3, 32, 32), 4))
    seen, _, mask = random_mask(noise(2, 64, seed=1), 16)
    assert seen.shape == (2, 16) and mask.sum() == 2 * 48
    assert masked_loss(target, target, mask) == 0
    zero = masked_loss(torch.zeros_like(target), target, mask)
    assert zero.item() == pytest.approx(47 / 48, abs=1e-4)


def test_seen_patches_are_not_in_the_loss() -> None:
    pred, target, mask = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), torch.tensor([[0, 1, 1, 0.0]])
    target[0, 0] = 9.0
    assert masked_loss(pred, target, mask) == 0
    target[0, 1] = 2.0
    assert masked_loss(pred, target, mask) == 4 / 2


def test_peer() -> None:
    """transformers' masked autoencoder shuffles, cuts, normalises and weighs alike."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        decoder_num_attention_heads=2,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_intermediate_size=64,
        norm_pix_loss=True,
    )
    theirs = transformers.ViTMAEForPreTraining(config)
    images, order = noise(2, 3, 16, 16), noise(2, 16, seed=2)
    with torch.no_grad():
        found = theirs(images, noise=order)
    _, restore, mask = random_mask(order, 4)
    patches = patchify(images, 4)
    assert torch.equal(theirs.patchify(images), patches)
    assert torch.equal(found.ids_restore, restore) and torch.equal(found.mask, mask)
    loss = masked_loss(found.logits, normalised_patches(patches), mask)
    assert loss.item() == pytest.approx(found.loss.item(), rel=1e-6)


def test_patches_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="Patches of 5 do not divide images of 8 x 8"):
        patchify(torch.zeros(1, 1, 8, 8), 5)
