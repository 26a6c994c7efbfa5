"""Architectures: families from names, factories and checkpoints; sources from which they are built
again.
"""

from sartor.nn.autorf.cell import RFCell, insert_rf_cells
from sartor.nn.autorf.resnet import cifar_resnet, rf_resnet
from sartor.nn.autorf.search import DifferentiableSearch
from sartor.nn.bamboo.backbone import bamboo
from sartor.nn.bamboo.masked_autoencoder import MaskedAutoencoder
from sartor.nn.bamboo.over_smoothing import over_smoothing_report
from sartor.nn.cdfkd_mfs.head_attention import AttentiveStudent, HeadAttention
from sartor.nn.cdfkd_mfs.image_generators import DCGANGenerator, ImageGenerator
from sartor.nn.cdfkd_mfs.multi_head import MultiHeadStudent, multi_level_student
from sartor.nn.check import check_family
from sartor.nn.classifier_input import find_classifier, logits_and_features
from sartor.nn.deepfm import DeepFM
from sartor.nn.dense_vit import DenseViT, LightHead, dense_tiny_vit, resized
from sartor.nn.ecoformer.attention import EcoAttention
from sartor.nn.ecoformer.backbone import eco_pvt_v2, fit_hashes_
from sartor.nn.ecoformer.energy import attention_energy
from sartor.nn.ecoformer.hash_function import KernelHash
from sartor.nn.ghostnetv3.branches import expand_for_training, fold
from sartor.nn.ghostnetv3.rep_conv import RepConvBN
from sartor.nn.hvt.backbone import HVT
from sartor.nn.hvt.token_pool import TokenPool1d
from sartor.nn.lit.backbone import LIT
from sartor.nn.lit.deformable_merging import DeformableTokenMerging
from sartor.nn.lit.relative_attention import MapAttention
from sartor.nn.litv2.backbone import LITv2
from sartor.nn.litv2.conv_ffn import ConvFfn
from sartor.nn.litv2.hilo import HiLoAttention
from sartor.nn.litv2.token_hilo import TokenHiLo
from sartor.nn.load import PreferredInput, load_family, preferred_input
from sartor.nn.meta_pooling.layer import MetaPooling, insert_meta_pooling, mobilenetv2_metapool
from sartor.nn.meta_pooling.search import PMPL
from sartor.nn.sources import build
from sartor.nn.sparse_mlp.backbone import sparse_mlp
from sartor.nn.sparse_mlp.mixer import MoELayer, SparseMixerBlock, aux_loss
from sartor.nn.spvit.backbone import spvit_deit
from sartor.nn.spvit.unified_attention import UnifiedAttention, UnifiedMlp
from sartor.nn.tiny_vit import tiny_vit
from sartor.nn.vmrnn.cell import VMRNNCell
from sartor.nn.vmrnn.forecaster import VMRNN, VMRNNMultiScale, forecast_loss
from sartor.nn.vmrnn.scan import selective_scan
from sartor.nn.vmrnn.ss2d import SS2D

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
