import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError
from sartor.export import FORMATS
from sartor.nn.litv2.hilo import HiLoAttention
from sartor.nn.litv2.token_hilo import TokenHiLo
from sartor.testing import LayerContract


class TestTokenHiLo(LayerContract):
    """Two tokens in front of a map whose sides are no multiples of the window."""

    def layer(self) -> nn.Module:
        return TokenHiLo(HiLoAttention(16, 4, qkv_bias=True), (3, 5), num_prefix_tokens=2)

    def inputs(self) -> Tensor:
        return noise(2, 17, 16)

    @pytest.mark.slow  # HiLo's own suite exports its operators
    @pytest.mark.parametrize("format", FORMATS)
    def test_exports_with_equal_numbers(self, format: str) -> None:
        super().test_exports_with_equal_numbers(format)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_without_tokens_in_front_it_is_hilo() -> None:
    attn, x = HiLoAttention(16, 4), noise(2, 24, 16)
    with torch.no_grad():
        assert torch.equal(TokenHiLo(attn, (4, 6))(x), attn(x, size=(4, 6)))


def test_tokens_in_front_look_at_the_whole_map_and_are_looked_at() -> None:
    """As a class token must: through the low frequencies alone."""
    layer, x = TokenHiLo(HiLoAttention(16, 4), (4, 4), num_prefix_tokens=1), noise(1, 17, 16)
    other_patch, other_front = x.clone(), x.clone()
    other_patch[:, 16] += 1
    other_front[:, 0] += 1
    with torch.no_grad():
        y = layer(x)
        by_patch, by_front = (layer(other) != y for other in (other_patch, other_front))
    assert by_patch[0, 0, 8:].all() and not by_patch[0, 0, :8].any()
    assert by_front[0, 1:, 8:].all() and not by_front[0, 1:, :8].any()


def test_padding_is_hilos() -> None:
    attn, x = HiLoAttention(16, 4), noise(2, 15, 16)
    front = torch.cat((noise(2, 1, 16), x), dim=1)
    with torch.no_grad():
        windows = TokenHiLo(attn, (3, 5), num_prefix_tokens=1)(front)[:, 1:, :8]
        assert torch.allclose(windows, attn(x, size=(3, 5))[..., :8], atol=1e-6)


def test_other_lengths_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 tokens and a map of \(4, 4\), and was given 16"):
        TokenHiLo(HiLoAttention(8, 2), (4, 4), num_prefix_tokens=1)(torch.zeros(1, 16, 8))


def test_masks_are_refused() -> None:
    layer, x = TokenHiLo(HiLoAttention(8, 2), (4, 4)), torch.zeros(1, 16, 8)
    for mask in ({"attn_mask": torch.zeros(16, 16)}, {"is_causal": True}):
        with pytest.raises(DataError, match="without a mask"):
            layer(x, **mask)
