"""Sparse-MLP: an MLP-Mixer whose last blocks send tokens and channels to experts.

Source: Lou, Xue, Zheng, You, Sparse-MLP: A Fully-MLP Architecture with Conditional Computation,
    2021, arXiv 2109.02008. No code was released. Deviations: how many experts the small and the
    base size have is not given by the paper so that its parameters follow; the layouts here are
    those of the project's notes. The residual path around a sparse block is a reading too.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sartor.core.errors import FamilyError
from sartor.core.packages import require
from sartor.nn.backbone import Backbone
from sartor.nn.sparse_mlp.mixer import SparseMixerBlock

__all__ = ["BACKBONES", "sparse_mlp"]


def sparse_mlp(
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    embed_dim: int = 512,
    depth: int = 8,
    num_sparse: int = 2,
    *,
    mlp_ratio: tuple[float, float] = (0.5, 4.0),
    token_experts: int = 4,
    channel_experts: int = 1,
    token_k: int = 1,
    channel_k: int = 1,
    capacity_factor: float | None = None,
    drop_path_rate: float = 0.0,
    **kwargs: Any,
) -> nn.Module:
    """Make an untrained Sparse-MLP: timm's ``MlpMixer``, the last blocks of which are sparse.

    It is bound to one size of images, as its weights are bound to a number of tokens.

    Args:
        img_size: height and width of the images.
        patch_size: of the patches.
        embed_dim: channels, even.
        depth: all blocks.
        num_sparse: how many of them, the last, are sparse; 0 is the Mixer itself.
        mlp_ratio: hidden width over tokens and over channels, in units of ``embed_dim``.
        token_experts: experts over tokens in each sparse block.
        channel_experts: experts over channels.
        token_k: experts of one channel.
        channel_k: experts of one token.
        capacity_factor: see :class:`~sartor.nn.sparse_mlp.expert_mlp.ExpertMlp`.
        drop_path_rate: of stochastic depth, the same for all blocks.
        **kwargs: of timm's ``MlpMixer``: ``num_classes``, ``in_chans``, ``drop_rate``,
            ``global_pool`` and so on.

    Raises:
        FamilyError: a number is out of range.

    Example:
        >>> model = sparse_mlp(8, 2, embed_dim=16, depth=3, num_sparse=1, num_classes=10)
        >>> [type(block).__name__ for block in model.blocks]
        ['MixerBlock', 'MixerBlock', 'SparseMixerBlock']
    """
    if depth < 1 or not 0 <= num_sparse <= depth:
        raise FamilyError(
            f"A Sparse-MLP takes 0 <= num_sparse <= depth and at least one block, got {num_sparse} "
            f"and {depth}."
        )
    model: Any = require("timm.models.mlp_mixer").MlpMixer(
        img_size=img_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        num_blocks=depth,
        mlp_ratio=mlp_ratio,
        drop_path_rate=drop_path_rate,
        **kwargs,
    )
    tokens_dim, channels_dim = (int(ratio * embed_dim) for ratio in mlp_ratio)
    for index in range(depth - num_sparse, depth):
        model.blocks[index] = SparseMixerBlock(
            model.stem.num_patches,
            embed_dim,
            tokens_dim,
            channels_dim,
            token_experts=token_experts,
            channel_experts=channel_experts,
            token_k=token_k,
            channel_k=channel_k,
            drop_path=drop_path_rate,
            capacity_factor=capacity_factor,
        )
    return model


def _backbone(name: str, **kwargs: int) -> Backbone:
    return Backbone(
        name=name,
        model=sparse_mlp,
        kwargs=kwargs,
        fixed_input_size=True,
        first_conv="stem.proj",
        features={"feature_cls": "getter", "out_indices": 1},
    )


#: dense and sparse blocks: 6 + 2, 10 + 2 and 8 + 6
BACKBONES = (
    _backbone("sparse_mlp_small", embed_dim=512, depth=8, num_sparse=2, token_experts=4),
    _backbone("sparse_mlp_base", embed_dim=768, depth=12, num_sparse=2, token_experts=8),
    _backbone(
        "sparse_mlp_large",
        embed_dim=768,
        depth=14,
        num_sparse=6,
        token_experts=16,
        channel_experts=4,
    ),
)
