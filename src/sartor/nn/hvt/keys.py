"""Names of HVT's official weights, as in ziplab/HVT, and their names in sartor."""

from __future__ import annotations

import re

__all__ = ["official_key"]


def official_key(name: str, *, pool_every: int | None) -> str | None:
    """Name of an official weight here.

    Args:
        name: in the authors' checkpoint.
        pool_every: of the model that it belongs to.

    Example:
        >>> official_key("blocks.3.pos_embed", pool_every=3)
        'stages.2.downsample.pos_embed'
        >>> official_key("blocks.3.mlp.fc1.bias", pool_every=3)
        'stages.1.blocks.2.mlp.fc1.bias'
    """
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if not found:
        return name
    block, rest = int(found[1]), found[2]
    if pool_every is None:
        return f"stages.0.blocks.{block}.{rest}"
    if rest == "pos_embed":
        return f"stages.{block // pool_every + 1}.downsample.pos_embed"
    stage = (block - 1) // pool_every + 1
    first = (stage - 1) * pool_every + 1 if stage else 0
    return f"stages.{stage}.blocks.{block - first}.{rest}"
