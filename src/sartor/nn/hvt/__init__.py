"""HVT: vision transformers that pool their tokens."""

from sartor.nn.hvt.backbone import HVT
from sartor.nn.hvt.token_pool import TokenPool1d

__all__ = [
    "HVT",
    "TokenPool1d",
]
