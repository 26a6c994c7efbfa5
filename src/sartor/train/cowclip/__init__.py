"""CowClip: gradients of embedding rows, clipped by how often their ids occur."""

from sartor.train.cowclip.clip import cowclip_, norm_bound
from sartor.train.cowclip.optimizer import CowClip, cowclip_adam
from sartor.train.cowclip.scaling import (
    ScaledRates,
    cowclip_scaling,
    dense_warmup,
    linear_scaling,
    sqrt_scaling,
)

__all__ = [
    "CowClip",
    "ScaledRates",
    "cowclip_",
    "cowclip_adam",
    "cowclip_scaling",
    "dense_warmup",
    "linear_scaling",
    "norm_bound",
    "sqrt_scaling",
]
