"""LITv2's evidence on single layers: how long they take, and which frequencies their heads give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sartor.core.modes import eval_mode
from sartor.core.packages import require
from sartor.measure import latency
from sartor.nn.litv2.hilo import HiLoAttention
from sartor.nn.sources import seeded

__all__ = ["Timing", "high_shares", "layer_shares", "time_layers"]

DIM, HEADS, ALPHA = 384, 12, 0.9


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one layer on a map of ``side * side`` positions, without and with kernel."""

    side: int
    plain: float
    hilo: float
    plain_fused: float
    hilo_fused: float

    def row(self) -> dict[str, str | int | float]:
        """As a line of a table."""
        return {
            "positions": f"{self.side} x {self.side}",
            "plain": self.plain,
            "HiLo": self.hilo,
            "plain, fused": self.plain_fused,
            "HiLo, fused": self.hilo_fused,
        }


def time_layers(side: int) -> Timing:
    """Time timm's attention and HiLo in turn, each with and without torch's fused kernel."""
    with seeded(0):
        maps = torch.randn(1, side, side, DIM)
        attention = require("timm.layers").Attention
        layers = {
            "plain": attention(DIM, num_heads=HEADS, qkv_bias=True).eval(),
            "plain_fused": attention(DIM, num_heads=HEADS, qkv_bias=True).eval(),
            "hilo": HiLoAttention(DIM, HEADS, qkv_bias=True, alpha=ALPHA, fused=False).eval(),
            "hilo_fused": HiLoAttention(DIM, HEADS, qkv_bias=True, alpha=ALPHA).eval(),
        }
    layers["plain"].fused_attn = False
    tokens = maps.flatten(1, 2)
    calls = {
        name: (lambda layer=layer, x=tokens if "plain" in name else maps: layer(x))
        for name, layer in layers.items()
    }
    with torch.inference_mode():
        timed = latency(calls, rounds=5, min_seconds=0.0, warmup=1)
    return Timing(side=side, **{name: one.median_ms for name, one in timed.items()})


@torch.no_grad()
def high_shares(layer: HiLoAttention, maps: Tensor) -> tuple[float, float]:
    """Share of the energy outside the middle box |f| <= 1/4 of the spectrum.

    Args:
        layer: with both kinds of heads.
        maps: (B, H, W, C), sides multiples of the window.

    Returns:
        Of the heads within windows, and of those that look at the pooled map.
    """
    low = layer.lo_fi(maps.flatten(1, 2), layer.pooled(maps)).unflatten(1, maps.shape[1:3])
    return _high_share(layer.windows(maps)), _high_share(low)


def _high_share(maps: Tensor) -> float:
    energy = torch.fft.fft2(maps, dim=(1, 2)).abs().square()  # (B, H, W, C)
    rows, columns = (torch.fft.fftfreq(side).abs() <= 0.25 for side in maps.shape[1:3])
    return float(1 - energy[:, rows][:, :, columns].sum() / energy.sum())


@torch.no_grad()
def layer_shares(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """Mean of :func:`high_shares` over the layers of a model that have both kinds of heads."""
    found: list[tuple[float, float]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, HiLoAttention)
        found.append(high_shares(layer, inputs[0]))

    hooks = [
        module.register_forward_pre_hook(keep)
        for module in model.modules()
        if isinstance(module, HiLoAttention) and module.hi_heads and module.lo_heads
    ]
    with eval_mode(model):
        model(images)
    for hook in hooks:
        hook.remove()
    high, low = (sum(shares) / len(found) for shares in zip(*found, strict=True))
    return high, low
