"""Architectures: families from names, factories and checkpoints; sources from which they are built
again.
"""

from sartor.nn.attention_energy import attention_energy
from sartor.nn.autorf import RFCell, insert_rf_cells
from sartor.nn.autorf_search import DifferentiableSearch
from sartor.nn.bamboo import bamboo
from sartor.nn.check import check_family
from sartor.nn.classifier_input import find_classifier, logits_and_features
from sartor.nn.conv_ffn import ConvFfn
from sartor.nn.deepfm import DeepFM
from sartor.nn.deformable_merging import DeformableTokenMerging
from sartor.nn.dense_vit import DenseViT, LightHead, dense_tiny_vit, resized
from sartor.nn.eco_attention import EcoAttention
from sartor.nn.ecoformer import eco_pvt_v2, fit_hashes_
from sartor.nn.ghostnetv3 import expand_for_training, fold
from sartor.nn.head_attention import AttentiveStudent, HeadAttention
from sartor.nn.hilo import HiLoAttention
from sartor.nn.hvt import HVT
from sartor.nn.image_generators import DCGANGenerator, ImageGenerator
from sartor.nn.kernel_hash import KernelHash
from sartor.nn.lit import LIT
from sartor.nn.litv2 import LITv2
from sartor.nn.load import PreferredInput, load_family, preferred_input
from sartor.nn.masked_autoencoder import MaskedAutoencoder
from sartor.nn.meta_pooling import MetaPooling, insert_meta_pooling, mobilenetv2_metapool
from sartor.nn.meta_pooling_search import PMPL
from sartor.nn.multi_head import MultiHeadStudent, multi_level_student
from sartor.nn.over_smoothing import over_smoothing_report
from sartor.nn.relative_attention import MapAttention
from sartor.nn.rep_conv import RepConvBN
from sartor.nn.rf_resnet import cifar_resnet, rf_resnet
from sartor.nn.selective_scan import selective_scan
from sartor.nn.sources import build
from sartor.nn.sparse_mixer import MoELayer, SparseMixerBlock, aux_loss
from sartor.nn.sparse_mlp import sparse_mlp
from sartor.nn.spvit import spvit_deit
from sartor.nn.ss2d import SS2D
from sartor.nn.tiny_vit import tiny_vit
from sartor.nn.token_hilo import TokenHiLo
from sartor.nn.token_pool import TokenPool1d
from sartor.nn.unified_attention import UnifiedAttention, UnifiedMlp
from sartor.nn.vmrnn import VMRNN, VMRNNMultiScale, forecast_loss
from sartor.nn.vmrnn_cell import VMRNNCell

__all__ = [
    "HVT",
    "LIT",
    "PMPL",
    "SS2D",
    "VMRNN",
    "AttentiveStudent",
    "ConvFfn",
    "DCGANGenerator",
    "DeepFM",
    "DeformableTokenMerging",
    "DenseViT",
    "DifferentiableSearch",
    "EcoAttention",
    "HeadAttention",
    "HiLoAttention",
    "ImageGenerator",
    "KernelHash",
    "LITv2",
    "LightHead",
    "MapAttention",
    "MaskedAutoencoder",
    "MetaPooling",
    "MoELayer",
    "MultiHeadStudent",
    "PreferredInput",
    "RFCell",
    "RepConvBN",
    "SparseMixerBlock",
    "TokenHiLo",
    "TokenPool1d",
    "UnifiedAttention",
    "UnifiedMlp",
    "VMRNNCell",
    "VMRNNMultiScale",
    "attention_energy",
    "aux_loss",
    "bamboo",
    "build",
    "check_family",
    "cifar_resnet",
    "dense_tiny_vit",
    "eco_pvt_v2",
    "expand_for_training",
    "find_classifier",
    "fit_hashes_",
    "fold",
    "forecast_loss",
    "insert_meta_pooling",
    "insert_rf_cells",
    "load_family",
    "logits_and_features",
    "mobilenetv2_metapool",
    "multi_level_student",
    "over_smoothing_report",
    "preferred_input",
    "resized",
    "rf_resnet",
    "selective_scan",
    "sparse_mlp",
    "spvit_deit",
    "tiny_vit",
]
