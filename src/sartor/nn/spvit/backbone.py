"""The vision transformers that SPViT found: convolutions in front, thinner feed-forward layers.

Source: He, Cai, Liu, Pan, Zhang, Tao, Zhuang, "Pruning Self-attentions into Convolutional Layers in
Single Path", TPAMI 2024, arXiv 2111.11802; kinds and widths of ziplab/SPViT's checkpoints. The rest
is timm's. Deviation: layers are the plain ones that a search leaves, with no weights of the
attention that they came from; :mod:`sartor.nn.spvit.keys` makes theirs of the authors' checkpoints.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.core.packages import require
from sartor.nn.backbone import Backbone
from sartor.nn.linear_init import init_linear_
from sartor.nn.spvit.bottleneck_conv import BottleneckConv
from sartor.nn.spvit.keys import plain_state
from sartor.nn.spvit.unified_attention import KINDS, NoBranch

__all__ = ["BACKBONES", "spvit_deit"]

_KERNELS = {"conv1x1": 1, "conv3x3": 3}


def spvit_deit(
    kinds: Sequence[str],
    widths: Sequence[int],
    *,
    embed_dim: int = 192,
    num_heads: int = 3,
    **kwargs: Any,
) -> nn.Module:
    """Make timm's ``VisionTransformer`` with other attention and feed-forward layers in its blocks.

    Args:
        kinds: what stands in the place of each block's attention: ``skip``, ``conv1x1``,
            ``conv3x3`` or ``attention``.
        widths: hidden units of each block's feed-forward layer, at least 1.
        embed_dim: channels.
        num_heads: of attention; convolutions have ``embed_dim / num_heads`` inner channels.
        **kwargs: of timm's class; the depth is that of ``kinds``.

    Raises:
        FamilyError: a kind or a width is none, or there are not as many of both.

    Example:
        >>> model = spvit_deit(("conv3x3", "attention"), (7, 9), embed_dim=12, img_size=32)
        >>> sum(p.numel() for p in model.blocks[0].parameters())
        739
    """
    if len(kinds) != len(widths) or not {*kinds} <= {*KINDS} or min(widths, default=0) < 1:
        raise FamilyError(
            f"SPViT takes one of {', '.join(KINDS)} and a width of at least 1 for each block, got "
            f"{tuple(kinds)} and {tuple(widths)}."
        )
    model: Any = _transformer()(
        embed_dim=embed_dim, num_heads=num_heads, depth=len(kinds), **kwargs
    )
    mlp, grid = require("timm.layers").Mlp, tuple(model.patch_embed.grid_size)
    for block, kind, width in zip(model.blocks, kinds, widths, strict=True):
        if kind == "skip":
            block.attn = NoBranch()
        elif kind in _KERNELS:
            block.attn = BottleneckConv(
                embed_dim,
                embed_dim // num_heads,
                _KERNELS[kind],
                grid,
                prefix_tokens=model.num_prefix_tokens,
            )
        block.mlp = mlp(embed_dim, width)
        for part in (block.attn, block.mlp):
            part.apply(init_linear_)
    made: nn.Module = model
    return made


@functools.cache
def _transformer() -> type:
    """The transformer of timm, which also takes the authors' checkpoints."""
    base: Any = require("timm.models.vision_transformer").VisionTransformer

    class SPViT(base):  # type: ignore[misc]
        def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            """Make plain layers of what the authors keep of attention."""
            return plain_state(state)

    return SPViT


def _backbone(
    name: str, heads: int, drop_path: float, front: Sequence[str], widths: Sequence[int]
) -> Backbone:
    return Backbone(
        name=name,
        model=spvit_deit,
        kwargs={
            "kinds": (*front, *("attention",) * (12 - len(front))),
            "widths": tuple(widths),
            "embed_dim": 64 * heads,
            "num_heads": heads,
            "drop_path_rate": drop_path,
        },
        fixed_input_size=True,
        features={"feature_cls": "getter", "out_indices": 3},
    )


_ONE, _THREE = "conv1x1", "conv3x3"

#: the published sizes
BACKBONES = (
    _backbone(
        "spvit_deit_tiny",
        3,
        0.0,
        (_ONE,) * 2,
        (744, 758, 764, 767, 766, 764, 756, 659, 633, 473, 179, 145),
    ),
    _backbone(
        "spvit_deit_small",
        6,
        0.1,
        (_ONE,),
        (1304, 1399, 1344, 1214, 1251, 1183, 1140, 925, 742, 391, 104, 103),
    ),
    _backbone(
        "spvit_deit_base",
        12,
        0.1,
        (_ONE,) * 3 + (_THREE,) * 2,
        (1118, 489, 1050, 1345, 1336, 1326, 1431, 1564, 1606, 1702, 1290, 190),
    ),
    _backbone(
        "spvit_deit_base_10g",
        12,
        0.1,
        (_ONE,) * 3 + (_THREE,),
        (1253, 610, 1343, 1912, 2354, 2306, 2483, 2753, 2869, 2860, 2443, 934),
    ),
)
