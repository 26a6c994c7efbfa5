"""Architectures: families from names, factories and checkpoints; sources from which they are built
again.
"""

from sartor.nn.check import check_family
from sartor.nn.classifier_input import find_classifier, logits_and_features
from sartor.nn.deepfm import DeepFM
from sartor.nn.deformable_merging import DeformableTokenMerging
from sartor.nn.dense_vit import DenseViT, LightHead, dense_tiny_vit, resized
from sartor.nn.eco_attention import EcoAttention
from sartor.nn.head_attention import AttentiveStudent, HeadAttention
from sartor.nn.hilo import HiLoAttention
from sartor.nn.image_generators import DCGANGenerator, ImageGenerator
from sartor.nn.load import PreferredInput, load_family, preferred_input
from sartor.nn.masked_autoencoder import MaskedAutoencoder
from sartor.nn.multi_head import MultiHeadStudent, multi_level_student
from sartor.nn.over_smoothing import over_smoothing_report
from sartor.nn.selective_scan import selective_scan
from sartor.nn.sources import build
from sartor.nn.ss2d import SS2D
from sartor.nn.tiny_vit import tiny_vit
from sartor.nn.token_pool import TokenPool1d
from sartor.nn.vmrnn import VMRNN, VMRNNMultiScale, forecast_loss
from sartor.nn.vmrnn_cell import VMRNNCell

__all__ = [
    "SS2D",
    "VMRNN",
    "AttentiveStudent",
    "DCGANGenerator",
    "DeepFM",
    "DeformableTokenMerging",
    "DenseViT",
    "EcoAttention",
    "HeadAttention",
    "HiLoAttention",
    "ImageGenerator",
    "LightHead",
    "MaskedAutoencoder",
    "MultiHeadStudent",
    "PreferredInput",
    "TokenPool1d",
    "VMRNNCell",
    "VMRNNMultiScale",
    "build",
    "check_family",
    "dense_tiny_vit",
    "find_classifier",
    "forecast_loss",
    "load_family",
    "logits_and_features",
    "multi_level_student",
    "over_smoothing_report",
    "preferred_input",
    "resized",
    "selective_scan",
    "tiny_vit",
]
