"""EcoFormer: attention on learned binary codes, and the energy that a model takes."""

from sartor.nn.ecoformer.attention import EcoAttention
from sartor.nn.ecoformer.backbone import eco_pvt_v2, fit_hashes_
from sartor.nn.ecoformer.energy import attention_energy
from sartor.nn.ecoformer.hash_function import KernelHash

__all__ = [
    "EcoAttention",
    "KernelHash",
    "attention_energy",
    "eco_pvt_v2",
    "fit_hashes_",
]
