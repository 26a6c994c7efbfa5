"""GhostNetV3: branches that train beside a convolution and fold into it."""

from sartor.nn.ghostnetv3.branches import expand_for_training, fold, official_key
from sartor.nn.ghostnetv3.rep_conv import RepConvBN

__all__ = [
    "RepConvBN",
    "expand_for_training",
    "fold",
    "official_key",
]
