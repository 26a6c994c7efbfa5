"""Pyramids of stages on maps (B, H, W, C), with timm's accessors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError
from sartor.core.packages import require

__all__ = ["Pyramid"]


class Pyramid(nn.Module):
    """A classifier of four (or other) stages with timm's accessors.

    Args:
        stem: images (B, 3, H, W) -> maps (B, H / p, W / p, C).
        stages: each works on maps of half the sides of the one before.
        dims: channels of each stage.
        patch_size: p.
        num_classes: width of the logits; 0 for none.
        eps: of the last layer norm.
        drop_rate: dropout before the classifier.
        global_pool: how features become one vector; ``avg`` or what a child class lists in
            ``pools``.
        init: is applied to every module in the end.

    Raises:
        FamilyError: there is no such pooling.
    """

    pools: ClassVar[tuple[str, ...]] = ("avg",)
    output_fmt = "NHWC"

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        *,
        dims: Sequence[int],
        patch_size: int,
        num_classes: int,
        eps: float = 1e-5,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        init: Callable[[nn.Module], None] | None = None,
    ) -> None:
        super().__init__()
        if global_pool not in self.pools:
            raise FamilyError(
                f"{type(self).__name__} pools by {' or '.join(self.pools)}, got {global_pool!r}; "
                "leave global_pool out."
            )
        self.global_pool = global_pool
        self.num_classes, self.multiple = num_classes, patch_size * 2 ** (len(dims) - 1)
        self.num_features = self.head_hidden_size = dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": patch_size * 2**index, "module": f"stages.{index}"}
            for index, dim in enumerate(dims)
        ]
        self.patch_embed = stem
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(dims[-1], eps=eps)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = _classifier(dims[-1], num_classes)
        if init is not None:
            self.apply(init)

    def check_images(self, x: Tensor) -> None:
        """Refuse images that cannot be halved that often.

        Raises:
            DataError: a side is no multiple of the last stage's stride.
        """
        if x.ndim != 4 or x.shape[-2] % self.multiple or x.shape[-1] % self.multiple:
            raise DataError(
                f"{type(self).__name__} takes images (B, C, H, W) whose sides are multiples of "
                f"{self.multiple}, got {tuple(x.shape)}; pad them or resize them."
            )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> normalised features of the last stage (B, h, w, C)."""
        self.check_images(x)
        features: Tensor = self.norm(self.stages(self.patch_embed(x)))
        return features

    def pool(self, x: Tensor) -> Tensor:
        """Features of the last stage (B, h, w, C) -> their mean (B, C)."""
        return x.mean(dim=(1, 2))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features of the last stage -> logits (B, K), or what they are made of, (B, C)."""
        pooled: Tensor = self.head_drop(self.pool(x))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, K)."""
        return self.forward_head(self.forward_features(x))

    def stage_map(self, x: Tensor) -> Tensor:
        """Features of a stage as a map (B, h, w, C)."""
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the maps of stages, as timm's ``forward_intermediates`` does.

        Args:
            x: images (B, 3, H, W).
            indices: of the stages; a number takes that many last ones, ``None`` all.
            norm: whether the last stage's map is normalised.
            stop_early: whether stages after the last asked one are left out.
            output_fmt: ``NCHW`` or ``NHWC``.
            intermediates_only: whether only the list of maps is returned.

        Returns:
            The last features and the maps, or the maps.

        Raises:
            DataError: there is no such format.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise DataError(f"Maps are NCHW or NHWC, got {output_fmt!r}.")
        take, last = require("timm.models._features").feature_take_indices(
            len(self.stages), indices
        )
        self.check_images(x)
        x, maps = self.patch_embed(x), []
        for index, stage in enumerate(self.stages):
            if stop_early and index > last:
                break
            x = stage(x)
            if index in take:
                final = norm and index == len(self.stages) - 1
                found = self.stage_map(self.norm(x) if final else x)
                maps.append(found.permute(0, 3, 1, 2) if output_fmt == "NCHW" else found)
        return maps if intermediates_only else (self.norm(x), maps)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what :meth:`forward_intermediates` does not need for these stages."""
        take, last = require("timm.models._features").feature_take_indices(
            len(self.stages), indices
        )
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0)
        if prune_norm:
            self.norm = nn.Identity()  # type: ignore[assignment]
        return list(take)

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
            FamilyError: another pooling is asked for than the model has.
        """
        if global_pool not in (None, "", self.global_pool):
            raise FamilyError(
                f"This {type(self).__name__} pools by {self.global_pool}, got {global_pool!r}; "
                "leave global_pool out."
            )
        self.num_classes = num_classes
        self.head = _classifier(self.num_features, num_classes).to(self.norm.weight.device)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters with more than one dimension that do not decay."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm sorts parameters into layers, stem first."""
        blocks = [
            (r"^stages\.(\d+)\.(?:downsample|pos_embed)", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^patch_embed", "blocks": r"^stages\.(\d+)" if coarse else blocks}


def _classifier(dim: int, num_classes: int) -> nn.Module:
    return nn.Linear(dim, num_classes) if num_classes else nn.Identity()
