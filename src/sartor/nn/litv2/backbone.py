"""LITv2: a pyramid without attention at high resolution, with HiLo in its third stage.

Source: Pan, Cai, Zhuang, "Fast Vision Transformers with HiLo Attention", NeurIPS 2022, arXiv
2205.13213; names of the official weights from ziplab/LITv2. Deviations: a merging belongs to the
stage that it leads into, and not to the one before, so that a stage's output is its map; images of
every size whose sides are multiples of 32 are taken, since no weight is bound to a size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from torch import nn

from sartor.nn.backbone import Backbone
from sartor.nn.linear_init import init_linear_
from sartor.nn.lit.deformable_merging import DeformableTokenMerging
from sartor.nn.litv2.conv_ffn import ConvFfn
from sartor.nn.litv2.hilo import HiLoAttention
from sartor.nn.pyramid import Pyramid
from sartor.nn.pyramid_parts import (
    PyramidBlock,
    PyramidStage,
    PyramidStem,
    check_stages,
    drop_path_rates,
)

__all__ = ["BACKBONES", "LITv2", "official_key"]


class LITv2(Pyramid):
    """Four stages: two of feed-forward blocks alone, one with HiLo, one with plain attention.

    Args:
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        num_heads: attention heads of each stage; those of stages without attention play no part.
        window_sizes: of HiLo in each stage; 0 is no attention, 1 plain attention.
        alpha: share of HiLo's heads that look at the pooled map, in [0, 1].
        mlp_ratio: hidden width of the feed-forward layers, in units of the stage's channels.
        patch_size: side of a patch.
        in_chans: channels of the images.
        num_classes: width of the logits.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; that of the others rises to it.
        global_pool: ``avg``, the only one there is.

    Raises:
        FamilyError: stages are described by tuples of different lengths, or a number is outside its
            range.

    Example:
        >>> import torch
        >>> model = LITv2((8, 16), (1, 1), (1, 2), (0, 2), num_classes=10)
        >>> model(torch.zeros(2, 3, 32, 48)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_sizes: Sequence[int] = (0, 0, 2, 1),
        *,
        alpha: float = 0.9,
        mlp_ratio: float = 4.0,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        check_stages(embed_dims, depths, num_heads, window_sizes)
        stages = []
        for index, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            dim, heads, window = embed_dims[index], num_heads[index], window_sizes[index]
            blocks = [
                PyramidBlock(
                    dim,
                    HiLoAttention(dim, heads, qkv_bias=True, window_size=window, alpha=alpha)
                    if window
                    else None,
                    ConvFfn(dim, int(dim * mlp_ratio)),
                    drop_path=rate,
                )
                for rate in rates
            ]
            merge = (
                DeformableTokenMerging(embed_dims[index - 1], dim, channels_last=True)
                if index
                else None
            )
            stages.append(PyramidStage(merge, blocks))
        super().__init__(
            PyramidStem(in_chans, embed_dims[0], patch_size),
            stages,
            dims=embed_dims,
            patch_size=patch_size,
            num_classes=num_classes,
            drop_rate=drop_rate,
            global_pool=global_pool,
            init=_init,
        )


def official_key(name: str) -> str | None:
    """Name of an official weight here; buffers that are computed have none.

    Example:
        >>> official_key("layers.1.downsample.dconv.conv_offset.weight")
        'stages.2.downsample.offset.weight'
    """
    merge = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", name)
    if merge:
        rest = merge[2].replace("dconv.conv_offset.", "offset.").replace("dconv.", "conv.")
        return f"stages.{int(merge[1]) + 1}.downsample.{rest.replace('norm_layer.', 'norm.')}"
    name = re.sub(r"^layers\.", "stages.", name).replace(".dwconv.dwconv.", ".dwconv.")
    return re.sub(r"\.attn\.(h|l)_", lambda m: f".attn.{'hi' if m[1] == 'h' else 'lo'}_", name)


def _init(module: nn.Module) -> None:
    init_linear_(module)
    if isinstance(module, ConvFfn):
        nn.init.normal_(module.dwconv.weight, std=math.sqrt(2 / 9))  # fan out of one 3 x 3 kernel
        nn.init.zeros_(module.dwconv.bias)  # type: ignore[arg-type]


_SMALL = {"embed_dims": (96, 192, 384, 768), "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_MEDIUM = {**_SMALL, "depths": (2, 2, 18, 2)}
_BASE = {
    "embed_dims": (128, 256, 512, 1024),
    "depths": (2, 2, 18, 2),
    "num_heads": (4, 8, 16, 32),
}


def _backbone(name: str, kwargs: dict[str, object], drop_path: float, size: int = 224) -> Backbone:
    return Backbone(
        name=name,
        model=LITv2,
        kwargs={**kwargs, "drop_path_rate": drop_path},
        input_size=(3, size, size),
        official_key=official_key,
    )


#: the published sizes
BACKBONES = (
    _backbone("litv2_small", _SMALL, 0.2),
    _backbone("litv2_medium", _MEDIUM, 0.3),
    _backbone("litv2_base", _BASE, 0.5),
    _backbone("litv2_base_384", _BASE, 0.5, size=384),
)
