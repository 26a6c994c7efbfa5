"""Compression: verbs that make a trained model cheaper, each with a frozen config and a report."""

from sartor.compress.int8 import (
    Int8DynamicConfig,
    Int8StaticConfig,
    quantize_dynamic,
    quantize_static,
)
from sartor.compress.prune import PruneConfig, prune_
from sartor.compress.resize import resize_, shape_plan

__all__ = [
    "Int8DynamicConfig",
    "Int8StaticConfig",
    "PruneConfig",
    "prune_",
    "quantize_dynamic",
    "quantize_static",
    "resize_",
    "shape_plan",
]
