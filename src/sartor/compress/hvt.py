"""Pool the tokens of a trained vision transformer after some of its blocks.

Source: Pan, Zhuang, Liu, He, Cai, "Scalable Vision Transformers with Hierarchical Pooling", ICCV
2021, arXiv 2103.10619. The paper trains from scratch, without a class token. Additions for trained
weights: the new positions start at zero, and a class token may stay, unpooled, as the classifier
reads it. Short training must follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sartor.core.errors import NoEffectError, RecipeError
from sartor.core.move import MoveReport
from sartor.core.packages import require
from sartor.core.schema import check_keys
from sartor.measure import count_flops, count_params
from sartor.nn.hvt.token_pool import TokenPool1d, pooled_length
from sartor.nn.token_grid import patch_grid, token_counts

__all__ = ["PooledBlock", "TokenPoolConfig", "install_pools_", "plan_pools", "pool_tokens_"]


@dataclass(frozen=True, kw_only=True)
class TokenPoolConfig:
    """Settings of pooling.

    Attributes:
        every: tokens are pooled after block 0 and each further ``every`` blocks, as in the paper.
        after: or the blocks after which they are, from 0; where neither is given, the one in the
            middle.
        kernel_size: tokens a window.
        stride: tokens from one window to the next; with a kernel of 1, a stride of 1 is the
            identity.
        mode: ``max`` as in the paper, or ``avg``.
        keep_class_token: whether tokens in front stay; without, the mean token is classified, as in
            the paper, which suits only a plain timm ``VisionTransformer``.
    """

    every: int | None = None
    after: tuple[int, ...] = ()
    kernel_size: int = 3
    stride: int = 2
    mode: str = "max"
    keep_class_token: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "after", tuple(self.after))
        numbers = (self.kernel_size, self.stride, 1 if self.every is None else self.every)
        known = all(type(block) is int and block >= 0 for block in self.after)
        if min(numbers) < 1 or not known or self.mode not in ("max", "avg"):
            raise RecipeError(
                "Pooling takes an every, kernel_size and stride of at least 1, blocks from 0 and "
                f"the mode max or avg, got {self}."
            )
        if self.every is not None and self.after:
            raise RecipeError(
                f"Pooling takes every={self.every} or after={self.after}, not both; leave one out."
            )

    def blocks(self, depth: int) -> tuple[int, ...]:
        """After which of ``depth`` blocks tokens are pooled.

        Example:
            >>> TokenPoolConfig(every=4).blocks(12), TokenPoolConfig().blocks(12)
            ((0, 4, 8), (5,))
        """
        if self.every is not None:
            return tuple(range(0, depth, self.every))
        return tuple(sorted(set(self.after))) or (max(depth // 2 - 1, 0),)


class PooledBlock(nn.Module):
    """A block and the pool behind it: tokens (B, P + N, C) -> tokens (B, P + N', C)."""

    def __init__(self, block: nn.Module, pool: TokenPool1d) -> None:
        super().__init__()
        self.block, self.pool = block, pool

    def forward(self, x: Tensor) -> Tensor:
        """Run the block, then pool."""
        pooled: Tensor = self.pool(self.block(x))
        return pooled


def pool_tokens_(model: nn.Module, example: Tensor, config: TokenPoolConfig) -> MoveReport:
    """Wrap blocks of a transformer so that the sequence shrinks behind them, in place.

    Args:
        model: a timm vision transformer, or a route through several, with or without class token.
        example: inputs (1, ...) on the model's device.
        config: where and how.

    Returns:
        Parameters, FLOPs and tokens behind the last block before and after; in ``skipped`` what was
        dropped.

    Raises:
        NoEffectError: the model has no blocks that give tokens of a grid of patches.
        RecipeError: the configuration names blocks that the model does not have.
        FamilyError: too few tokens are left for a pool, or the patches form no grid.

    Example:
        >>> import torch
        >>> from sartor.nn import tiny_vit
        >>> model = tiny_vit()
        >>> pool_tokens_(model, torch.zeros(1, 1, 8, 8), TokenPoolConfig()).after["tokens"]
        8
    """
    plan = plan_pools(model, example, config)
    before = _count(model, example)
    notes = install_pools_(model, plan, config)
    return MoveReport(before=before, after=_count(model, example), skipped=notes)


def plan_pools(model: nn.Module, example: Tensor, config: TokenPoolConfig) -> dict[str, Any]:
    """Work out how many tokens each pool gets.

    Returns:
        ``lengths``: block -> tokens that are pooled; ``prefix``: tokens in front; ``dim``:
            channels.
    """
    blocks = _blocks(model)
    counts = token_counts(model, example, {str(i): block for i, block in enumerate(blocks)})
    if not counts or len(counts) < len(blocks):
        raise NoEffectError(
            f"Pooling needs a list of blocks that give tokens, which {type(model).__name__} has "
            "not; leave pooling out."
        )
    height, width = patch_grid(model)
    tokens, dims = counts["0"][0], {name: dim for name, (_, dim) in counts.items()}
    prefix, length = tokens - height * width, height * width
    chosen = config.blocks(len(blocks))
    if prefix < 0 or len({count for count, _ in counts.values()}) > 1:
        raise NoEffectError(
            f"The tokens of {type(model).__name__} are no grid of {height} x {width} patches in "
            "every block; leave pooling out."
        )
    if chosen[-1] >= len(blocks):
        raise RecipeError(
            f"Pooling is asked for after block {chosen[-1]} and the model has {len(blocks)} "
            "blocks, "
            "counted from 0."
        )
    lengths: dict[str, list[int]] = {}
    for block in chosen:
        lengths[str(block)] = [length, dims[str(block)]]
        length = pooled_length(length, config.kernel_size, config.stride)
    return {"lengths": lengths, "prefix": prefix}


def install_pools_(
    model: nn.Module, plan: Mapping[str, Any], config: TokenPoolConfig
) -> tuple[str, ...]:
    """Put pools where a plan says; a class token goes unless it is to be kept.

    Returns:
        A sentence for each thing that was dropped.

    Raises:
        RecipeError: the plan does not fit the model.
    """
    check_keys(plan, "The recipe's plan of pools", {"lengths": dict, "prefix": int}, {})
    blocks, prefix = _blocks(model), plan["prefix"]
    check_keys(
        plan["lengths"], "The recipe's pools", {}, {str(i): list for i in range(len(blocks))}
    )
    notes = []
    if prefix and not config.keep_class_token:
        notes, prefix = [_drop_class_token_(model)], 0
    reference = next(model.parameters())
    for name, sizes in plan["lengths"].items():
        if len(sizes) != 2 or any(type(size) is not int or size < 1 for size in sizes):
            raise RecipeError(f"The recipe pools {sizes} tokens and channels; fit again.")
        length, dim = sizes
        pool = TokenPool1d(
            dim,
            length,
            kernel_size=config.kernel_size,
            stride=config.stride,
            mode=config.mode,
            num_prefix_tokens=prefix,
            zero_init=True,
        ).to(reference)
        block = blocks[int(name)]
        blocks[int(name)] = PooledBlock(block, pool).train(block.training)
    return tuple(notes)


def _drop_class_token_(model: Any) -> str:
    """Take the tokens in front away; the mean of the others is classified."""
    transformer = require("timm.models.vision_transformer").VisionTransformer
    if type(model) is not transformer or model.attn_pool is not None:
        raise RecipeError(
            f"The class token of a {type(model).__name__} cannot be dropped; set "
            "keep_class_token=True."
        )
    prefix = model.num_prefix_tokens
    if not model.no_embed_class:
        model.pos_embed = nn.Parameter(model.pos_embed.detach()[:, prefix:].clone())
    model.cls_token = model.reg_token = None
    model.num_prefix_tokens = model.num_reg_tokens = 0
    model.has_class_token, model.global_pool = False, "avg"
    return f"{prefix} tokens in front of the patches: dropped, the mean token is classified"


def _blocks(model: nn.Module) -> Any:
    """The model's list of blocks; an empty one if it has none."""
    blocks = getattr(model, "blocks", None)
    return blocks if isinstance(blocks, nn.Sequential | nn.ModuleList) else nn.ModuleList()


def _count(model: nn.Module, example: Tensor) -> dict[str, float]:
    blocks = _blocks(model)
    tokens = token_counts(model, example, {"last": blocks[-1]})["last"][0]
    return {
        "params": count_params(model),
        "flops": count_flops(model, example),
        "tokens": tokens,
    }
