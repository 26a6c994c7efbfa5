"""CDFKD-MFS: students with a head for each teacher, and what draws images for them."""

from sartor.nn.cdfkd_mfs.head_attention import AttentiveStudent, HeadAttention
from sartor.nn.cdfkd_mfs.image_generators import DCGANGenerator, ImageGenerator
from sartor.nn.cdfkd_mfs.multi_head import MultiHeadStudent, multi_level_student

__all__ = [
    "AttentiveStudent",
    "DCGANGenerator",
    "HeadAttention",
    "ImageGenerator",
    "MultiHeadStudent",
    "multi_level_student",
]
