"""HVT: a vision transformer whose sequence of tokens is pooled between stages.

Source: Pan, Zhuang, Liu, He, Cai, "Scalable Vision Transformers with Hierarchical Pooling", ICCV
2021, arXiv 2103.10619. Blocks and patch embedding are timm's. Deviations: blocks between two pools
form a stage, which a pool leads into, so that models of equal lengths can be stitched; weights of
another image size are stretched when they are loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError
from sartor.core.packages import require
from sartor.nn.backbone import Backbone
from sartor.nn.hvt.keys import official_key
from sartor.nn.hvt.size import HVTSize
from sartor.nn.hvt.token_pool import TokenPool1d, resize_sequence
from sartor.nn.linear_init import init_linear_
from sartor.nn.map_positions import resize_positions
from sartor.nn.pyramid_parts import PyramidStage, drop_path_rates

__all__ = ["BACKBONES", "HVT", "official_key"]

_LAYER_NORM = functools.partial(nn.LayerNorm, eps=1e-6)


class HVT(nn.Module):
    """A vision transformer without class token that pools its tokens; logits are of their mean.

    Args:
        num_classes: width of the logits; 0 for none.
        in_chans: channels of the images.
        img_size: side of the images, or (side, side).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; that of the others rises to it.
        global_pool: ``avg``, the only one there is.
        size: fields of :class:`sartor.nn.hvt.size.HVTSize`.

    Raises:
        FamilyError: a number is outside its range, or a pool gets too few tokens.

    Example:
        >>> model = HVT(10, img_size=32, patch_size=4, embed_dim=16, depth=3, num_heads=2,
        ...     pool_every=2)
        >>> model.size.lengths, model(torch.zeros(2, 3, 32, 32)).shape
        ((64, 31, 15), torch.Size([2, 10]))
    """

    output_fmt = "NLC"

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 224,
        *,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        **size: Any,
    ) -> None:
        super().__init__()
        self.size = HVTSize(img_size=_side(img_size), **size)
        self._check_pool(global_pool)
        dim, lengths = self.size.embed_dim, self.size.lengths
        self.num_classes = num_classes
        self.num_features = self.embed_dim = self.head_hidden_size = dim
        self.patch_embed = require("timm.layers").PatchEmbed(
            self.size.img_size, self.size.patch_size, in_chans, dim
        )
        self.pos_embed = nn.Parameter(torch.empty(1, lengths[0], dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        rates = drop_path_rates(drop_path_rate, self.size.stage_depths)
        self.stages = nn.Sequential(
            *(
                PyramidStage(
                    self._pool(lengths[stage - 1]) if stage else None,
                    [self._block(rate) for rate in rates[stage]],
                )
                for stage in range(len(lengths))
            )
        )
        self.norm = _LAYER_NORM(dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._classifier()
        self.apply(init_linear_)

    def _block(self, drop_path: float) -> nn.Module:
        block: nn.Module = require("timm.models.vision_transformer").Block(
            self.size.embed_dim,
            self.size.num_heads,
            qkv_bias=True,
            drop_path=drop_path,
            norm_layer=_LAYER_NORM,
        )
        return block

    def _pool(self, length: int) -> nn.Module:
        size = self.size
        return TokenPool1d(
            size.embed_dim, length, kernel_size=size.pool_kernel, stride=size.pool_stride
        )

    def _classifier(self) -> nn.Module:
        return nn.Linear(self.embed_dim, self.num_classes) if self.num_classes else nn.Identity()

    def _check_pool(self, global_pool: str | None) -> None:
        if global_pool not in (None, "", "avg"):
            raise FamilyError(f"HVT pools by avg, got {global_pool!r}; leave global_pool out.")

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> normalised tokens (B, N, C) of the last stage.

        Raises:
            DataError: the images have another size than the positions were learned for.
        """
        side = self.size.img_size
        if tuple(x.shape[-2:]) != (side, side):
            raise DataError(
                f"This HVT takes images of {side} x {side} and was given {tuple(x.shape[-2:])}; "
                "resize them, or make the model with that img_size."
            )
        tokens: Tensor = self.norm(self.stages(self.patch_embed(x) + self.pos_embed))
        return tokens

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, N, C) -> logits (B, K), or the mean token (B, C)."""
        pooled: Tensor = self.head_drop(x.mean(dim=1))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, K)."""
        return self.forward_head(self.forward_features(x))

    def macs(self) -> int:
        """Multiply-adds of one image."""
        return self.size.macs(
            in_chans=self.patch_embed.proj.in_channels, num_classes=self.num_classes
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only what enters each block, and compute the rest again in the backward pass."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def get_classifier(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on top; 0 classes for none.

        Raises:
            FamilyError: another pooling is asked for.
        """
        self._check_pool(global_pool)
        self.num_classes = num_classes
        self.head = self._classifier().to(self.pos_embed.device)

    def no_weight_decay(self) -> set[str]:
        """Names of all positions."""
        return {name for name, _ in self.named_parameters() if name.endswith("pos_embed")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm sorts parameters into layers, stem first."""
        blocks = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {
            "stem": r"^patch_embed|^pos_embed",
            "blocks": r"^stages\.(\d+)" if coarse else blocks,
        }

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stretch the positions of square images of another size to this model's.

        Args:
            state: names as here.
        """
        adapted, own = dict(state), self.state_dict()
        for name in adapted.keys() & self.no_weight_decay():
            value, length = adapted[name], own[name].shape[1]
            if value.shape[1] == length:
                continue
            if name == "pos_embed":
                side = self.size.img_size // self.size.patch_size
                adapted[name] = resize_positions(value, (side, side))
            else:
                adapted[name] = resize_sequence(value, length)
        return adapted


def _side(img_size: int | tuple[int, int]) -> int:
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if height != width:
        raise FamilyError(f"HVT takes square images, got an img_size of {height} x {width}.")
    return height


def _backbone(name: str, heads: int, pool_every: int | None) -> Backbone:
    key: Callable[[str], str | None] = functools.partial(official_key, pool_every=pool_every)
    return Backbone(
        name=name,
        model=HVT,
        kwargs={
            "embed_dim": 64 * heads,
            "num_heads": heads,
            "pool_every": pool_every,
            "drop_path_rate": 0.1,
        },
        fixed_input_size=True,
        features=None,
        official_key=key,
    )


#: the published sizes
BACKBONES = (
    _backbone("hvt_tiny_0", 3, None),
    _backbone("hvt_tiny_1", 3, 12),
    _backbone("hvt_small_0", 6, None),
    _backbone("hvt_small_1", 6, 12),
    _backbone("hvt_small_2", 6, 6),
    _backbone("hvt_small_3", 6, 4),
    _backbone("hvt_small_4", 6, 3),
    _backbone("scale_hvt_tiny_4", 6, 3),
)
