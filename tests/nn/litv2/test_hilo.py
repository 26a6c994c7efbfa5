import math

import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError, FamilyError
from sartor.export import FORMATS
from sartor.nn.litv2.hilo import HiLoAttention, hilo_heads
from sartor.testing import LayerContract


def wavy_(module: nn.Module) -> nn.Module:
    """Give every parameter the card's values: 0.3 * sin(0.7 * i), i its flat index."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.sin(0.7 * torch.arange(p.numel()).double()).view_as(p))
    return module


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestHiLo(LayerContract):
    def layer(self) -> nn.Module:
        return HiLoAttention(16, 4, qkv_bias=True)

    def inputs(self) -> Tensor:
        return noise(2, 4, 6, 16)


class TestPadded(TestHiLo):
    """Sides that are no multiples of the window."""

    def inputs(self) -> Tensor:
        return noise(2, 5, 3, 16)

    @pytest.mark.slow  # whole maps export by default
    @pytest.mark.parametrize("format", FORMATS)
    def test_exports_with_equal_numbers(self, format: str) -> None:
        super().test_exports_with_equal_numbers(format)


@pytest.mark.parametrize(
    ("alpha", "names"), [(0.2, {"hi_qkv", "hi_proj"}), (1.0, {"lo_q", "lo_kv", "lo_proj"})]
)
def test_one_kind_of_heads_alone(alpha: float, names: set[str]) -> None:
    layer = HiLoAttention(16, 4, alpha=alpha)
    assert {name.split(".")[0] for name, _ in layer.named_parameters()} == names
    with torch.no_grad():
        assert layer(noise(2, 4, 6, 16)).shape == (2, 4, 6, 16)


def test_the_hand_case_of_the_card() -> None:
    layer = wavy_(HiLoAttention(8, 4, qkv_bias=True, window_size=2, alpha=0.5))
    x = torch.cos(0.37 * torch.arange(128.0)).view(1, 16, 8)
    with torch.no_grad():
        y = layer(x, size=(4, 4))
    first = [-0.017060, 0.078180, 0.529566, -0.066783, -0.168980, 0.352251, 0.165014, 0.346124]
    assert y[0, 0].tolist() == pytest.approx(first, abs=1e-6)
    assert float(y.sum()) == pytest.approx(23.007698, abs=2e-5)


@pytest.mark.parametrize(
    ("alpha", "window", "macs", "params"),
    [
        (0.5, 2, 83_467_776, 517_632),
        (0.9, 2, 77_697_536, 550_400),
        (0.0, 2, 116_207_616, 591_360),
        (1.0, 2, 79_629_312, 591_360),
        (0.5, 1, 145_108_992, 591_360),
        (0.5, 7, 76_832_256, 517_632),
    ],
)
def test_counts_of_the_card(alpha: float, window: int, macs: int, params: int) -> None:
    layer = HiLoAttention(384, 12, qkv_bias=True, alpha=alpha, window_size=window)
    assert layer.macs(14, 14) == macs
    assert sum(p.numel() for p in layer.parameters()) == params


def test_parameters_without_bias() -> None:
    layer = HiLoAttention(384, 12, alpha=0.5)
    assert sum(p.numel() for p in layer.parameters()) == 516_480


@pytest.mark.parametrize("size", [(14, 14), (5, 7)])
def test_macs_are_those_that_torch_counts(size: tuple[int, int]) -> None:
    from sartor.measure import count_flops

    layer = HiLoAttention(48, 6, alpha=0.7)
    assert 2 * layer.macs(*size) == count_flops(layer, torch.zeros(1, *size, 48))


def test_a_window_of_one_is_plain_attention() -> None:
    """timm's attention with the same weights gives the same numbers."""
    from timm.layers import Attention

    plain, layer = (
        Attention(24, num_heads=3, qkv_bias=True),
        HiLoAttention(24, 3, qkv_bias=True, window_size=1),
    )
    layer.load_state_dict(
        {
            "lo_q.weight": plain.qkv.weight[:24],
            "lo_q.bias": plain.qkv.bias[:24],
            "lo_kv.weight": plain.qkv.weight[24:],
            "lo_kv.bias": plain.qkv.bias[24:],
            "lo_proj.weight": plain.proj.weight,
            "lo_proj.bias": plain.proj.bias,
        }
    )
    x = noise(2, 20, 24)
    with torch.no_grad():
        assert torch.allclose(layer(x, size=(4, 5)), plain(x), atol=1e-6)


def test_high_heads_see_their_window_alone() -> None:
    layer, x = HiLoAttention(16, 4, alpha=0.0), noise(1, 4, 4, 16)
    other = x.clone()
    other[:, 2:, 2:] += 1
    with torch.no_grad():
        before, after = layer(x), layer(other)
    changed = (before != after).any(dim=-1)[0]
    assert changed[2:, 2:].all() and not changed[:2].any() and not changed[:, :2].any()


def test_low_heads_do_not_tell_positions_of_a_cell_apart() -> None:
    """With one query held fixed, exchanging other positions inside their cells changes nothing."""
    layer, x = HiLoAttention(16, 4, alpha=1.0), noise(1, 4, 4, 16)
    other = x.clone()
    other[:, 2:, 2:] = x[:, 2:, 2:].flip(1, 2)
    with torch.no_grad():
        assert torch.allclose(layer(x)[:, :2], layer(other)[:, :2], atol=1e-6)
        assert not torch.allclose(layer(x)[:, 2:, 2:], layer(other)[:, 2:, 2:], atol=1e-3)


def test_high_heads_come_first() -> None:
    layer, x = HiLoAttention(16, 4, alpha=0.25), noise(1, 4, 4, 16)
    with torch.no_grad():
        y = layer(x)
        low = layer.lo_fi(x.flatten(1, 2), layer.pooled(x)).view(1, 4, 4, 4)
        assert torch.equal(y[..., :12], layer.windows(x)) and torch.equal(y[..., 12:], low)


def test_fused_and_not_fused_agree() -> None:
    fused, plain = HiLoAttention(32, 4, alpha=0.5), HiLoAttention(32, 4, alpha=0.5, fused=False)
    plain.load_state_dict(fused.state_dict())
    x = noise(2, 6, 6, 32)
    with torch.no_grad():
        assert torch.allclose(fused(x), plain(x), atol=1e-6)


def test_tokens_are_the_map_in_raster_order() -> None:
    layer, x = HiLoAttention(16, 4), noise(2, 4, 6, 16)
    with torch.no_grad():
        assert torch.equal(layer(x.flatten(1, 2), size=(4, 6)), layer(x).flatten(1, 2))


@pytest.mark.parametrize(
    ("alpha", "heads", "low"),
    [(0.9, 12, 10), (0.9, 16, 14), (0.29, 100, 28), (0.7, 10, 7), (0.05, 12, 0)],
)
def test_heads_are_cut_off_and_not_rounded(alpha: float, heads: int, low: int) -> None:
    assert hilo_heads(heads, alpha, 2) == (heads - low, low)


def test_low_frequencies_pass_the_low_branch_alone() -> None:
    """On white noise the outputs of the high heads hold ten times the share of high frequencies."""
    layer, x = HiLoAttention(64, 4, alpha=0.5), noise(4, 16, 16, 64)
    with torch.no_grad():
        low = layer.lo_fi(x.flatten(1, 2), layer.pooled(x)).view(4, 16, 16, 32)
        shares = [_high_share(part) for part in (layer.windows(x), low)]
    assert shares[0] >= 10 * shares[1]


def _high_share(maps: Tensor) -> float:
    """Share of the spectral energy of maps (B, H, W, C) outside the box |f| <= 1/4."""
    energy = torch.fft.fft2(maps, dim=(1, 2)).abs() ** 2
    low = torch.fft.fftfreq(maps.shape[1]).abs() <= 0.25
    inside = energy[:, low][:, :, low].sum()
    return float(1 - inside / energy.sum())


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"dim": 10, "num_heads": 4}, "multiple of its num_heads, got 10 and 4"),
        ({"dim": 8, "num_heads": 4, "alpha": 1.1}, "alpha in"),
        ({"dim": 8, "num_heads": 4, "alpha": -0.1}, "alpha in"),
        ({"dim": 8, "num_heads": 4, "alpha": math.nan}, "alpha in"),
        ({"dim": 8, "num_heads": 4, "window_size": 0}, "window of at least 1"),
        ({"dim": 8, "num_heads": 0}, "at least one head"),
    ],
)
def test_settings_that_cannot_be(kwargs: dict[str, float], words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        HiLoAttention(**kwargs)


@pytest.mark.parametrize("size", [None, (4, 4), (3, 9)])
def test_tokens_need_their_size(size: tuple[int, int] | None) -> None:
    with pytest.raises(DataError, match="24 tokens"):
        HiLoAttention(8, 4)(torch.zeros(1, 24, 8), size=size)
