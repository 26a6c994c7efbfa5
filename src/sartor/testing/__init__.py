"""Contract suites to inherit, and families small enough to test with."""

from sartor.testing.backbone import BackboneContract
from sartor.testing.elastic import ElasticContract
from sartor.testing.evidence import EvidenceContract
from sartor.testing.families import (
    TINY_CONV_SPLIT,
    TinyConvNet,
    tiny_conv_family,
    tiny_resnet_family,
    tiny_swin_family,
    tiny_task,
    tiny_vit_family,
)
from sartor.testing.layer import LayerContract
from sartor.testing.move import MoveContract

__all__ = [
    "TINY_CONV_SPLIT",
    "BackboneContract",
    "ElasticContract",
    "EvidenceContract",
    "LayerContract",
    "MoveContract",
    "TinyConvNet",
    "tiny_conv_family",
    "tiny_resnet_family",
    "tiny_swin_family",
    "tiny_task",
    "tiny_vit_family",
]
