import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError, FamilyError
from sartor.nn.ecoformer.attention import EcoAttention, code_attention
from sartor.testing import LayerContract


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def signs(*shape: int) -> Tensor:
    return torch.where(noise(*shape) > 0, 1.0, -1.0)


class TestEcoAttention(LayerContract):
    def layer(self) -> nn.Module:
        return EcoAttention(16, 2, random_hash=True)

    def inputs(self) -> Tensor:
        return noise(2, 30, 16)


def test_it_is_the_quadratic_form() -> None:
    codes, v = signs(2, 3, 49, 16), noise(2, 3, 49, 8, seed=1)
    weights = codes @ codes.transpose(-2, -1) + 17
    weights = weights / weights.sum(dim=-1, keepdim=True)
    assert (weights > 0).all()
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 3, 49))
    assert (code_attention(codes, v) - weights @ v).abs().max() < 1e-6


def test_the_official_numerator_is_no_mean() -> None:
    """The card: it is off by up to about half on normal values; here b = 16 and N = 49."""
    codes, v = signs(2, 3, 49, 16), noise(2, 3, 49, 8, seed=1)
    mean, own = code_attention(codes, v), code_attention(codes, v, bias="self")
    assert 0.2 < (mean - own).abs().max() < 0.8
    n_beta = 49 * 17
    below = (codes @ codes.transpose(-2, -1)).sum(dim=-1, keepdim=True) + n_beta
    difference = 17 * (v.sum(dim=-2, keepdim=True) - v) / below
    assert torch.allclose(mean - own, difference, atol=1e-5)


def test_equal_codes_give_the_mean() -> None:
    v = noise(2, 3, 20, 8)
    assert torch.allclose(
        code_attention(torch.ones(2, 3, 20, 16), v),
        v.mean(dim=-2, keepdim=True).expand_as(v),
        atol=1e-6,
    )


def test_sums_are_wide_under_autocast() -> None:
    layer, x = EcoAttention(16, 2, random_hash=True).eval(), noise(2, 30, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(x)
    assert outputs.dtype == torch.bfloat16 and outputs.isfinite().all()
    half = signs(1, 300, 16).bfloat16(), noise(1, 300, 8).bfloat16()
    exact = code_attention(half[0].double(), half[1].double())
    assert torch.allclose(code_attention(*half).double(), exact, atol=1e-2)


def test_tokens_of_norm_zero() -> None:
    layer = EcoAttention(16, 2, qkv_bias=False, random_hash=True)
    x = torch.zeros(2, 30, 16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((10, 4), {}, "multiple of its num_heads, got 10 and 4"),
        ((8, 0), {}, "multiple of its num_heads"),
        ((8, 2), {"bias": "own"}, "mean or self, got 'own'"),
        ((8, 2), {"num_bits": 0}, "at least 1"),
        ((8, 2), {"num_anchors": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be(args: tuple[int, int], kwargs: dict, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        EcoAttention(*args, **kwargs)


def test_masks_are_refused() -> None:
    layer = EcoAttention(8, 2, random_hash=True)
    with pytest.raises(DataError, match="without a mask"):
        layer(noise(1, 30, 8), attn_mask=torch.zeros(30, 30))
    with pytest.raises(DataError, match="without a mask"):
        layer(noise(1, 30, 8), is_causal=True)
