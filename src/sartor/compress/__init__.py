"""Compression: verbs that make a trained model cheaper, each with a frozen config and a report."""

from sartor.compress.ecoformer import EcoConfig, hash_attention_
from sartor.compress.hvt import TokenPoolConfig, pool_tokens_
from sartor.compress.int8 import (
    Int8DynamicConfig,
    Int8StaticConfig,
    quantize_dynamic,
    quantize_static,
)
from sartor.compress.litv2 import HiLoConfig, swap_attention_
from sartor.compress.prune import PruneConfig, prune_
from sartor.compress.resize import resize_, shape_plan
from sartor.compress.spvit import SPViTConfig, prune_attention_
from sartor.compress.spvit_search import SinglePathSearch

__all__ = [
    "EcoConfig",
    "HiLoConfig",
    "Int8DynamicConfig",
    "Int8StaticConfig",
    "PruneConfig",
    "SPViTConfig",
    "SinglePathSearch",
    "TokenPoolConfig",
    "hash_attention_",
    "pool_tokens_",
    "prune_",
    "prune_attention_",
    "quantize_dynamic",
    "quantize_static",
    "resize_",
    "shape_plan",
    "swap_attention_",
]
