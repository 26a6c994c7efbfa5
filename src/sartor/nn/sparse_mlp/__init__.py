"""Sparse-MLP: mixers whose last blocks route tokens and channels to experts."""

from sartor.nn.sparse_mlp.backbone import sparse_mlp
from sartor.nn.sparse_mlp.mixer import MoELayer, SparseMixerBlock, aux_loss

__all__ = [
    "MoELayer",
    "SparseMixerBlock",
    "aux_loss",
    "sparse_mlp",
]
