"""LIT: a pyramid that has attention in its last two stages alone.

Source: Pan, Zhuang, He, Liu, Cai, "Less is More: Pay Less Attention in Vision Transformers", AAAI
2022, arXiv 2105.14217. Deviations: a merging belongs to the stage that it leads into, and not to
the one before, so that a stage's output is its map;
weights of another image size are stretched when they are loaded; attention uses torch's fused
kernel. As in the official code, the layer norm of LIT-Ti's stem has an epsilon of 1e-5 and its
others 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sartor.core.errors import DataError, FamilyError
from sartor.core.packages import require
from sartor.nn.backbone import Backbone
from sartor.nn.linear_init import init_linear_
from sartor.nn.lit.deformable_merging import DeformableTokenMerging
from sartor.nn.lit.keys import official_key
from sartor.nn.lit.relative_attention import MapAttention, resize_bias_table
from sartor.nn.map_positions import MapPositions, resize_positions
from sartor.nn.pyramid import Pyramid
from sartor.nn.pyramid_parts import (
    PyramidBlock,
    PyramidStage,
    PyramidStem,
    check_stages,
    drop_path_rates,
)

__all__ = ["BACKBONES", "LIT", "official_key"]


class LIT(Pyramid):
    """Stages of MLPs at high resolution, of attention and MLPs at low resolution.

    Args:
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        num_heads: attention heads of each stage; those of stages without attention play no part.
        mlp_ratios: hidden width of each stage's MLPs, in units of its channels.
        img_size: height and width of the images, or one number for both; multiples of the last
            stage's stride.
        attn_stages: which stages have attention.
        pos: ``relative``, a bias in each attention, or ``absolute``, an embedding at the start of
            each stage.
        patch_size: side of a patch.
        in_chans: channels of the images.
        num_classes: width of the logits.
        global_pool: ``avg``, or ``token`` for a class token in the last stage, which needs
            ``absolute`` positions.
        eps: of the layer norms behind the stem.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; that of the others rises to it.

    Raises:
        FamilyError: stages are described by tuples of different lengths, the image size cannot be
            halved that often, or there are no such positions.

    Example:
        >>> model = LIT((8, 16), (1, 1), (1, 2), (4, 4), 32, attn_stages=(False, True))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 1000])
    """

    pools = ("avg", "token")

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        img_size: int | Sequence[int] = 224,
        *,
        attn_stages: Sequence[bool] = (False, False, True, True),
        pos: str = "relative",
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        eps: float = 1e-5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(embed_dims, depths, num_heads, mlp_ratios, attn_stages)
        sizes = _map_sizes(img_size, patch_size, len(depths))
        _check_positions(pos, global_pool)
        stages = []
        for index, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            dim, size = embed_dims[index], sizes[index]
            bias_size = size if pos == "relative" else None
            last = index == len(depths) - 1
            blocks = [
                PyramidBlock(
                    dim,
                    MapAttention(dim, num_heads[index], size=bias_size)
                    if attn_stages[index]
                    else None,
                    require("timm.layers").Mlp(dim, int(dim * mlp_ratios[index])),
                    drop_path=rate,
                    eps=eps,
                )
                for rate in rates
            ]
            merge = (
                DeformableTokenMerging(embed_dims[index - 1], dim, channels_last=True)
                if index
                else None
            )
            token = last and global_pool == "token"
            positions = MapPositions(dim, size, class_token=token) if pos == "absolute" else None
            stages.append(PyramidStage(merge, blocks, pos_embed=positions))
        super().__init__(
            PyramidStem(in_chans, embed_dims[0], patch_size),
            stages,
            dims=embed_dims,
            patch_size=patch_size,
            num_classes=num_classes,
            eps=eps,
            drop_rate=drop_rate,
            global_pool=global_pool,
            init=init_linear_,
        )
        self.sizes = sizes
        self.img_size = (sizes[0][0] * patch_size, sizes[0][1] * patch_size)

    def check_images(self, x: Tensor) -> None:
        """Refuse images of another size than the positions were learned for.

        Raises:
            DataError: the images have another size.
        """
        if tuple(x.shape[-2:]) != self.img_size:
            raise DataError(
                f"This LIT takes images of {self.img_size} and was given {tuple(x.shape[-2:])}; "
                "resize them, or make the model with that img_size."
            )

    def pool(self, x: Tensor) -> Tensor:
        """Features of the last stage -> their mean or the class token (B, C)."""
        return x[:, 0] if self.global_pool == "token" else super().pool(x)

    def stage_map(self, x: Tensor) -> Tensor:
        """Features of a stage as a map (B, h, w, C), without a class token."""
        return x if x.ndim == 4 else x[:, 1:].unflatten(1, self.sizes[-1])

    def no_weight_decay(self) -> set[str]:
        """Names of positions, biases of distances and class token."""
        parts = ("relative_bias", "pos_embed.weight", "cls_token")
        return {name for name, _ in self.named_parameters() if name.endswith(parts)}

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stretch the positions of square images of another size to this model's.

        Args:
            state: names as here.
        """
        adapted, own = dict(state), self.state_dict()
        for name in adapted.keys() & self.no_weight_decay():
            new = self.sizes[int(name.split(".")[1])]
            value = adapted[name]
            if value.shape == own[name].shape:
                continue
            if name.endswith("relative_bias"):
                side = (round(len(value) ** 0.5) + 1) // 2
                adapted[name] = resize_bias_table(value, (side, side), new)
            else:
                extra = own[name].shape[1] - new[0] * new[1]
                adapted[name] = resize_positions(value, new, prefix=extra)
        return adapted


def _map_sizes(img_size: int | Sequence[int], patch: int, stages: int) -> list[tuple[int, int]]:
    """(H, W) of the maps of each stage."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    stride = patch * 2 ** (stages - 1)
    if height % stride or width % stride or min(height, width) < stride:
        raise FamilyError(
            f"LIT takes an img_size of multiples of {stride}, got {height} x {width}."
        )
    return [(height // patch >> stage, width // patch >> stage) for stage in range(stages)]


def _check_positions(pos: str, global_pool: str) -> None:
    if pos not in ("relative", "absolute") or (pos == "relative" and global_pool == "token"):
        raise FamilyError(
            f"LIT has relative or absolute positions, and a class token with absolute ones alone, "
            f"got pos={pos!r} and global_pool={global_pool!r}."
        )


_SMALL: dict[str, Any] = {
    "embed_dims": (96, 192, 384, 768),
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "drop_path_rate": 0.2,
}
_TINY: dict[str, Any] = {
    "embed_dims": (64, 128, 320, 512),
    "depths": (3, 4, 6, 3),
    "num_heads": (1, 2, 5, 8),
    "mlp_ratios": (8, 8, 4, 4),
    "pos": "absolute",
    "global_pool": "token",
    "eps": 1e-6,
    "drop_path_rate": 0.1,
}
_BASE: dict[str, Any] = {
    "embed_dims": (128, 256, 512, 1024),
    "depths": (2, 2, 18, 2),
    "num_heads": (4, 8, 16, 32),
    "drop_path_rate": 0.5,
}

#: the published sizes
BACKBONES = tuple(
    Backbone(name=name, model=LIT, kwargs=kwargs, fixed_input_size=True, official_key=official_key)
    for name, kwargs in (
        ("lit_ti", _TINY),
        ("lit_small", _SMALL),
        ("lit_medium", {**_SMALL, "depths": (2, 2, 18, 2), "drop_path_rate": 0.3}),
        ("lit_base", _BASE),
    )
)
