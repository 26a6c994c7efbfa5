"""Plain vision transformers that label every pixel: a backbone and a light head over the features
of some of its blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.nn.tiny_vit import tiny_vit

__all__ = ["DenseViT", "LightHead", "dense_tiny_vit", "resized"]


class LightHead(nn.Module):
    """Normalises feature maps, joins them, maps them to classes and enlarges the result.

    Args:
        in_channels: channels C of each map.
        num_maps: number of maps T, at least 1.
        num_classes: classes K of a pixel.
        scale: height of the output over height of the maps.
        hidden: channels between its two maps.
    """

    def __init__(
        self, in_channels: int, num_maps: int, num_classes: int, scale: int, hidden: int = 32
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_maps, num_maps * in_channels)  # each map by itself
        self.reduce = nn.Conv2d(num_maps * in_channels, hidden, kernel_size=1)
        self.act = nn.GELU()
        self.classify = nn.Conv2d(hidden, num_classes, kernel_size=1)
        self.enlarge = nn.Upsample(scale_factor=scale, mode="bilinear")

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """T maps (B, C, H, W) -> logits (B, K, scale * H, scale * W)."""
        joined = self.norm(torch.cat(tuple(features), dim=1))  # (B, T * C, H, W)
        logits: Tensor = self.enlarge(self.classify(self.act(self.reduce(joined))))
        return logits


class DenseViT(nn.Module):
    """A timm ``VisionTransformer`` without its classifier, and a head over some of its blocks.

    Args:
        backbone: with ``forward_intermediates``, as timm's plain ViTs have.
        out_indices: blocks whose outputs the head reads, increasing.
        head: maps the list of their maps (B, C, h, w) to the output.

    Example:
        >>> model = dense_tiny_vit(embed_dim=8, depth=2, num_heads=2, num_classes=3)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(self, backbone: nn.Module, out_indices: Sequence[int], head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.out_indices = tuple(out_indices)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, 3, H, W) -> what the head makes of the maps."""
        backbone: Any = self.backbone
        maps = backbone.forward_intermediates(
            inputs, indices=list(self.out_indices), intermediates_only=True
        )
        outputs: Tensor = self.head(maps)
        return outputs


def dense_tiny_vit(
    *,
    embed_dim: int = 32,
    depth: int = 4,
    num_heads: int = 4,
    img_size: int = 32,
    patch_size: int = 4,
    in_chans: int = 3,
    num_classes: int = 5,
) -> DenseViT:
    """Make an untrained :class:`DenseViT` with a light head over its middle and its last block.

    The arguments are those of :func:`~sartor.nn.tiny_vit.tiny_vit`; ``num_classes`` counts the
    classes of a pixel.

    Raises:
        FamilyError: a number is out of range.
    """
    backbone: Any = tiny_vit(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        img_size=img_size,
        patch_size=patch_size,
        in_chans=in_chans,
    )
    backbone.reset_classifier(0)
    taps = sorted({(depth - 1) // 2, depth - 1})
    return DenseViT(backbone, taps, LightHead(embed_dim, len(taps), num_classes, patch_size))


def resized(model: nn.Module, image_size: tuple[int, int]) -> nn.Module:
    """Copy a timm ViT for inputs of another size; its position embeddings are interpolated
    bicubically.

    Args:
        model: a plain ViT of timm, or a :class:`DenseViT` of one.
        image_size: height and width, multiples of the patch size.

    Raises:
        FamilyError: the model cannot be resized, or not to this size.

    Example:
        >>> from sartor.nn import tiny_vit
        >>> resized(tiny_vit(depth=1), (16, 8))(torch.zeros(1, 1, 16, 8)).shape
        torch.Size([1, 10])
    """
    model = copy.deepcopy(model)
    vit: Any = model.backbone if isinstance(model, DenseViT) else model
    if not callable(getattr(vit, "set_input_size", None)):
        raise FamilyError(
            f"{type(vit).__name__} cannot be resized; give a timm model with set_input_size."
        )
    patch = vit.patch_embed.patch_size
    if any(size < 1 or size % unit for size, unit in zip(image_size, patch, strict=True)):
        raise FamilyError(
            f"The size {image_size[0]} x {image_size[1]} is no multiple of the patches of "
            f"{patch[0]} x {patch[1]}; give multiples."
        )
    vit.set_input_size(img_size=image_size)
    return model
