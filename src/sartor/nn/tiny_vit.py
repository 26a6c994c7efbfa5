"""Vision transformers small enough for 8 x 8 images and a laptop, built from timm's."""

from __future__ import annotations

from torch import nn

from sartor.core.errors import FamilyError
from sartor.core.packages import require

__all__ = ["tiny_vit"]


def tiny_vit(
    *,
    embed_dim: int = 32,
    depth: int = 4,
    num_heads: int = 4,
    img_size: int = 8,
    patch_size: int = 2,
    in_chans: int = 1,
    num_classes: int = 10,
) -> nn.Module:
    """Make an untrained timm ``VisionTransformer``: class token, pre-norm blocks, MLP ratio 4.

    Args:
        embed_dim: width, a multiple of ``num_heads``.
        depth: number of blocks, at least 1.
        num_heads: attention heads a block.
        img_size: height and width of the inputs, a multiple of ``patch_size``.
        patch_size: height and width of a patch.
        in_chans: channels of the inputs.
        num_classes: width of the logits.

    Returns:
        A module from (B, in_chans, img_size, img_size) to logits (B, num_classes), in training
        mode.

    Raises:
        FamilyError: a number is below 1, or a size is not a multiple of the other.

    Example:
        >>> sum(p.numel() for p in tiny_vit(embed_dim=8, depth=4).parameters())
        3778
    """
    numbers = (embed_dim, depth, num_heads, img_size, patch_size, in_chans, num_classes)
    if min(numbers) < 1:
        raise FamilyError(f"The numbers of a tiny_vit must be at least 1, got {min(numbers)}.")
    _check_multiple("embed_dim", embed_dim, "num_heads", num_heads)
    _check_multiple("img_size", img_size, "patch_size", patch_size)
    model: nn.Module = require("timm.models.vision_transformer").VisionTransformer(
        img_size=img_size,
        patch_size=patch_size,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
    )
    return model


def _check_multiple(name: str, value: int, of: str, unit: int) -> None:
    if value % unit:
        raise FamilyError(
            f"The {name} of a tiny_vit must be a multiple of its {of}, got {value} and {unit}; "
            f"take {name}={value - value % unit or unit}."
        )
