"""LIT: pyramids without attention in front, and deformable token merging."""

from sartor.nn.lit.backbone import LIT
from sartor.nn.lit.deformable_merging import DeformableTokenMerging, param_groups
from sartor.nn.lit.relative_attention import MapAttention

__all__ = [
    "LIT",
    "DeformableTokenMerging",
    "MapAttention",
    "param_groups",
]
