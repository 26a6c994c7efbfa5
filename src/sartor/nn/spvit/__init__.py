"""SPViT: attention and convolution on shared weights, and the nets that a search leaves."""

from sartor.nn.spvit.backbone import spvit_deit
from sartor.nn.spvit.unified_attention import UnifiedAttention, UnifiedMlp

__all__ = [
    "UnifiedAttention",
    "UnifiedMlp",
    "spvit_deit",
]
