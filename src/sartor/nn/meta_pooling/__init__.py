"""Meta-Pooling: poolings chosen while a net trains."""

from sartor.nn.meta_pooling.layer import MetaPooling, insert_meta_pooling, mobilenetv2_metapool
from sartor.nn.meta_pooling.search import PMPL

__all__ = [
    "PMPL",
    "MetaPooling",
    "insert_meta_pooling",
    "mobilenetv2_metapool",
]
