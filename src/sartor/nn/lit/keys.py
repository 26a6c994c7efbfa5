"""Names of LIT's official weights, as in both halves of ziplab/LIT, and their names in sartor."""

from __future__ import annotations

import re

__all__ = ["official_key"]


def official_key(name: str) -> str | None:
    """Name of an official weight here, of LIT-Ti and of the others; computed buffers have none.

    Example:
        >>> official_key("layers.2.blocks.0.attn.relative_position_bias_table")
        'stages.2.blocks.0.attn.relative_bias'
        >>> official_key("patch_embed3.dconv.conv_offset.weight")
        'stages.2.downsample.offset.weight'
    """
    if name.endswith("relative_position_index"):
        return None
    if name == "cls_token":
        return "stages.3.pos_embed.cls_token"
    name = name.replace("relative_position_bias_table", "relative_bias")
    name = name.replace("dconv.conv_offset.", "offset.").replace("dconv.", "conv.")
    name = name.replace("norm_layer.", "norm.")
    numbered = re.fullmatch(r"(patch_embed|pos_embed|block)(\d)\.?(.*)", name)
    if numbered:
        kind, stage, rest = numbered[1], int(numbered[2]) - 1, numbered[3]
        if kind == "patch_embed":
            return f"stages.{stage}.downsample.{rest}" if stage else f"patch_embed.{rest}"
        return f"stages.{stage}.{'pos_embed.weight' if kind == 'pos_embed' else f'blocks.{rest}'}"
    merge = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", name)
    if merge:
        return f"stages.{int(merge[1]) + 1}.downsample.{merge[2]}"
    return re.sub(r"^layers\.", "stages.", name)
