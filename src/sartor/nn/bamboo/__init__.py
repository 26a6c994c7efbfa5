"""Bamboo: deep and narrow transformers, masked pretraining, and how alike their tokens become."""

from sartor.nn.bamboo.backbone import bamboo
from sartor.nn.bamboo.masked_autoencoder import MaskedAutoencoder
from sartor.nn.bamboo.over_smoothing import over_smoothing_report

__all__ = [
    "MaskedAutoencoder",
    "bamboo",
    "over_smoothing_report",
]
