"""Bamboo: vision transformers that are deeper and narrower, meant for masked autoencoding.

Source: Xue, Chen, Sun, Ren, Zheng, He, Chen, Jiang, You, "A Study on Transformer Configuration and
Training Objective", ICML 2023, arXiv 2205.10505. The models are timm's ``VisionTransformer``. Which
sizes the paper calls Base, Large and Huge could not be confirmed: 24 x 512, 48 x 768 and 48 x 1024
are our reading. The authors released neither code nor weights; checkpoints with the names of
facebookresearch/mae load, their decoder is left out.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sartor.core.errors import FamilyError
from sartor.core.packages import require
from sartor.nn.backbone import Backbone

__all__ = ["BACKBONES", "bamboo", "encoder_key"]

HEAD_DIM = 64
_DECODER = ("decoder_", "mask_token")


def bamboo(
    *, embed_dim: int = 512, depth: int = 24, num_heads: int | None = None, **kwargs: Any
) -> nn.Module:
    """Make timm's vision transformer with heads of 64 channels.

    Args:
        embed_dim: width.
        depth: blocks, at least 1.
        num_heads: ``None``: one for each 64 channels of the width.
        kwargs: other arguments of timm's ``VisionTransformer``; ``global_pool="avg"`` classifies
            the mean token, as fine-tuning after masked autoencoding does.

    Raises:
        FamilyError: there is no block, the width is no multiple of the heads, or the patches do not
            divide the image.

    Example:
        >>> model = bamboo(embed_dim=128, depth=2, img_size=32, patch_size=8, num_classes=10)
        >>> len(model.blocks), model.blocks[0].attn.num_heads
        (2, 2)
    """
    if depth < 1:
        raise FamilyError(f"A Bamboo has at least one block, got a depth of {depth}.")
    heads = embed_dim // HEAD_DIM if num_heads is None else num_heads
    if heads < 1 or embed_dim % heads or (num_heads is None and embed_dim % HEAD_DIM):
        unit = f"{HEAD_DIM} channels a head" if num_heads is None else f"{num_heads} heads"
        raise FamilyError(
            f"The width of a Bamboo must divide into {unit}, got embed_dim={embed_dim}; take "
            "another width, or give num_heads."
        )
    for name, side in zip(("height", "width"), _pair(kwargs.get("img_size", 224)), strict=True):
        patch = _pair(kwargs.get("patch_size", 16))[name == "width"]
        if side % patch:
            raise FamilyError(
                f"The {name} of a Bamboo's images must be a multiple of its patches, got {side} "
                f"and {patch}."
            )
    model: nn.Module = require("timm.models.vision_transformer").VisionTransformer(
        embed_dim=embed_dim, depth=depth, num_heads=heads, **kwargs
    )
    return model


def encoder_key(key: str) -> str | None:
    """Name of a weight in a checkpoint of masked autoencoding -> its name here; ``None`` for those
    of the decoder.

    Example:
        >>> encoder_key("blocks.3.attn.qkv.weight"), encoder_key("decoder_blocks.0.norm1.bias")
        ('blocks.3.attn.qkv.weight', None)
    """
    return None if key.startswith(_DECODER) else key


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _backbone(name: str, **kwargs: int) -> Backbone:
    return Backbone(
        name=name,
        model=bamboo,
        kwargs=kwargs,
        fixed_input_size=True,
        features={"feature_cls": "getter", "out_indices": 3},
        official_key=encoder_key,
    )


#: the published levels, in the sizes that we read from the paper
BACKBONES = (
    _backbone("bamboo_base_patch16_224", embed_dim=512, depth=24, patch_size=16),
    _backbone("bamboo_large_patch16_224", embed_dim=768, depth=48, patch_size=16),
    _backbone("bamboo_huge_patch14_224", embed_dim=1024, depth=48, patch_size=14),
)
