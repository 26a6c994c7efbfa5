"""LITv2: attention to high and low frequencies, and the pyramids made of it."""

from sartor.nn.litv2.backbone import LITv2
from sartor.nn.litv2.conv_ffn import ConvFfn
from sartor.nn.litv2.hilo import HiLoAttention
from sartor.nn.litv2.token_hilo import TokenHiLo

__all__ = [
    "ConvFfn",
    "HiLoAttention",
    "LITv2",
    "TokenHiLo",
]
