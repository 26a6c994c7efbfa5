import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError, FamilyError
from sartor.nn.bamboo.backbone import bamboo
from sartor.nn.bamboo.masked_autoencoder import MaskedAutoencoder
from sartor.nn.bamboo.masked_patches import unpatchify
from sartor.nn.sources import seeded


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def small(**kwargs) -> MaskedAutoencoder:
    given = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2, **kwargs}
    with seeded(0):
        return MaskedAutoencoder(encoder(), **given)


def encoder(**kwargs) -> nn.Module:
    return bamboo(**{"embed_dim": 64, "depth": 2, "img_size": 32, "patch_size": 4, **kwargs})


def test_hidden_patches_do_not_reach_the_prediction() -> None:
    model, images, order = small().eval(), noise(2, 3, 32, 32), noise(2, 64, seed=1)
    with torch.no_grad():
        _, pred, mask = model(images, order)
        hidden = unpatchify(mask[..., None].expand(-1, -1, 48), 4, (8, 8))
        _, again, _ = model(torch.where(hidden > 0, noise(2, 3, 32, 32, seed=2), images), order)
        _, other, _ = model(torch.where(hidden > 0, images, images + 1), order)
    assert torch.equal(pred, again) and not torch.allclose(pred, other)


def test_with_everything_seen_the_encoder_is_the_model() -> None:
    model, images = small().eval(), noise(2, 3, 32, 32)
    with torch.no_grad():
        codes = model.encode(images, torch.arange(64).expand(2, -1))
        assert torch.allclose(codes, model.encoder.forward_features(images), atol=1e-6)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_everything_but_the_classifier_learns(pool: str) -> None:
    with seeded(0):
        vit = encoder(global_pool=pool)
        model = MaskedAutoencoder(vit, decoder_dim=32, decoder_depth=1, decoder_heads=2)
    model(noise(2, 3, 32, 32), noise(2, 64, seed=1)).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"encoder.head.weight", "encoder.head.bias"}


def test_a_plain_loop_learns_and_hands_over_its_encoder() -> None:
    model, images = small(), noise(8, 3, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    losses = []
    with seeded(0):
        for _ in range(30):
            loss = model(images).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    fresh = encoder(num_classes=7)
    missing, unexpected = fresh.load_state_dict(model.encoder_state(), strict=False)
    assert missing == ["head.weight", "head.bias"] and not unexpected


def test_the_state_holds_no_positions_that_can_be_computed() -> None:
    one, two = small(), small()
    two.load_state_dict(one.state_dict())
    assert not [name for name in one.state_dict() if "positions" in name]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"mask_ratio": 0.0}, "between 0 and 1, got 0.0"),
        ({"mask_ratio": 1.0}, "between 0 and 1, got 1.0"),
        ({"mask_ratio": 0.999}, "sees 0 of 64 patches"),
        ({"decoder_depth": 0}, "at least one block"),
        ({"decoder_dim": 34}, "multiple of 4"),
        ({"decoder_heads": 3}, "of its heads, got 1, 3 and 32"),
    ],
)
def test_settings_that_cannot_be(kwargs: dict, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        small(**kwargs)


def test_models_and_images_that_cannot_be() -> None:
    with pytest.raises(FamilyError, match="got a Linear without patch_embed"):
        MaskedAutoencoder(nn.Linear(2, 2))
    with pytest.raises(FamilyError, match="square to be filled in, got 4 x 8"):
        MaskedAutoencoder(encoder(patch_size=(4, 8)))
    with pytest.raises(DataError, match=r"takes images \(B, C, 32, 32\) and was given \(2, 3, 16"):
        small()(torch.zeros(2, 3, 16, 16))
    with pytest.raises(DataError, match=r"each of 2 x 64 patches, got \(2, 16\)"):
        small()(torch.zeros(2, 3, 32, 32), torch.zeros(2, 16))
