"""Architectures: families from names, factories and checkpoints; sources from which they are built
again.
"""

from sartor.nn.check import check_family
from sartor.nn.dense_vit import DenseViT, LightHead, dense_tiny_vit, resized
from sartor.nn.load import PreferredInput, load_family, preferred_input
from sartor.nn.sources import build
from sartor.nn.tiny_vit import tiny_vit

__all__ = [
    "DenseViT",
    "LightHead",
    "PreferredInput",
    "build",
    "check_family",
    "dense_tiny_vit",
    "load_family",
    "preferred_input",
    "resized",
    "tiny_vit",
]
