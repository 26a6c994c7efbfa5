import math

import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError, FamilyError
from sartor.nn.bamboo.backbone import bamboo
from sartor.nn.bamboo.over_smoothing import (
    high_over_low,
    over_smoothing_report,
    spectrum,
    token_cosine,
)
from sartor.nn.sources import seeded


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small() -> nn.Module:
    with seeded(0):
        return bamboo(embed_dim=64, depth=3, img_size=32, patch_size=8, num_classes=10)


def test_identical_tokens() -> None:
    tokens = random(1, 8).expand(5, 8)
    assert token_cosine(tokens).item() == pytest.approx(1)
    assert high_over_low(tokens).item() == pytest.approx(0, abs=1e-6)


def test_two_orthogonal_tokens() -> None:
    """The mean has norm^2 1 / 2, so twice it has 1, and what is left of 2 is 1."""
    assert token_cosine(torch.eye(2)).item() == 0
    assert high_over_low(torch.eye(2)).item() == pytest.approx(1)


def test_cosines_pair_by_pair() -> None:
    tokens = random(2, 6, 5)
    for one, found in zip(tokens, token_cosine(tokens), strict=True):
        pairs = [
            torch.cosine_similarity(one[i], one[j], dim=0).item()
            for i in range(6)
            for j in range(6)
            if i != j
        ]
        assert found.item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_uniform_attention_leaves_nothing_high_and_identity_all() -> None:
    tokens = random(7, 4)
    uniform = torch.full((7, 7), 1 / 7)
    assert high_over_low(uniform @ tokens).item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(high_over_low(torch.eye(7) @ tokens), high_over_low(tokens))


def test_attention_is_a_low_pass_filter() -> None:
    """Norm of the high part after attention <= sqrt(lambda) ||W|| times that before."""
    tokens, values = random(7, 4), random(4, 4, seed=1)
    attention = random(7, 7, seed=2).softmax(dim=-1)
    centre = torch.eye(7) - torch.full((7, 7), 1 / 7)
    largest = torch.linalg.eigvalsh(attention.T @ centre @ attention).max()
    bound = largest.sqrt() * torch.linalg.matrix_norm(values, 2) * (centre @ tokens).norm()
    assert (centre @ attention @ tokens @ values).norm() <= bound * (1 + 1e-6)


def test_spectrum_of_a_wave() -> None:
    """A wave of one period across the width is all at radius 1; its mean is at radius 0."""
    wave = 4.0 + torch.cos(2 * math.pi * torch.arange(8) / 8).expand(8, 8)
    found = spectrum(wave[None, None])
    amplitudes = torch.fft.fft2(wave).abs()
    assert amplitudes[0, 1].item() == pytest.approx(32, abs=1e-4)
    # four frequencies round to radius 1 along the axes, four along the diagonals
    assert found[1].item() == pytest.approx(math.log((32 + 32) / 8 / 256), abs=1e-4)
    assert found[0] == 0 and (found[3:] < -15).all()


def test_report_is_of_the_raw_outputs_of_blocks() -> None:
    model, images, kept = small().train(), random(4, 3, 32, 32), []
    handles = [b.register_forward_hook(lambda _m, _i, out: kept.append(out)) for b in model.blocks]
    report = over_smoothing_report(model, images)
    for handle in handles:
        handle.remove()
    assert model.training and [one.layer for one in report] == [0, 1, 2]
    for one, output in zip(report, kept, strict=True):
        tokens = output[:, 1:]
        assert one.cosine == pytest.approx(token_cosine(tokens).mean().item(), abs=1e-6)
        assert one.high_over_low == pytest.approx(high_over_low(tokens).mean().item(), abs=1e-6)
        centred = tokens - tokens.mean(dim=(0, 1))
        assert one.centred_cosine == pytest.approx(token_cosine(centred).mean().item(), abs=1e-6)
        assert one.spectrum[0] == 0
    assert math.isnan(report[0].rate)
    assert report[2].rate == pytest.approx(report[2].high_over_low / report[1].high_over_low)


def test_a_vector_that_all_tokens_share_does_not_centre() -> None:
    """It raises the plain cosine, the centred one stays."""
    model, images = small(), random(4, 3, 32, 32)
    before = over_smoothing_report(model, images, layers=[2])[0]
    with torch.no_grad():
        model.blocks[2].mlp.fc2.bias += 3.0
    after = over_smoothing_report(model, images, layers=[2])[0]
    assert after.cosine > before.cosine + 0.1
    assert after.centred_cosine == pytest.approx(before.centred_cosine, abs=1e-4)


def test_bad_inputs() -> None:
    with pytest.raises(DataError, match="pairs of tokens, got 1"):
        token_cosine(torch.ones(1, 4))
    with pytest.raises(DataError, match=r"got a shape of \(3, 32, 32\)"):
        over_smoothing_report(small(), torch.zeros(3, 32, 32))
    with pytest.raises(DataError, match=r"got a shape of \(0, 3, 32, 32\)"):
        over_smoothing_report(small(), torch.zeros(0, 3, 32, 32))
    with pytest.raises(FamilyError, match="Linear does not give the features"):
        over_smoothing_report(nn.Linear(2, 2), torch.zeros(1, 1, 2, 2))
    with pytest.raises(FamilyError, match="layers are 0 to 2, got 3"):
        over_smoothing_report(small(), torch.zeros(1, 3, 32, 32), layers=[3])
