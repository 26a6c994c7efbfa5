"""Parts of pyramids on maps (B, H, W, C): stem, blocks and stages."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sartor.core.errors import FamilyError
from sartor.core.packages import require

__all__ = ["PyramidBlock", "PyramidStage", "PyramidStem", "check_stages", "drop_path_rates"]


def check_stages(*per_stage: Sequence[float]) -> None:
    """Make sure that all stages are described.

    Raises:
        FamilyError: the sequences have different lengths, or none.
    """
    lengths = {len(values) for values in per_stage}
    if lengths == {0} or len(lengths) > 1:
        raise FamilyError(
            "A pyramid takes one entry a stage for its widths, depths, heads and so on, got "
            f"{' and '.join(str(tuple(values)) for values in per_stage)}."
        )


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates that rise linearly from 0 to ``rate`` over all blocks, by stage.

    Example:
        >>> drop_path_rates(0.3, (1, 3))
        [[0.0], [0.1, 0.2, 0.3]]
    """
    last = max(sum(depths) - 1, 1)
    rates = iter([round(rate * block / last, 10) for block in range(sum(depths))])
    return [[next(rates) for _ in range(depth)] for depth in depths]


class PyramidStem(nn.Module):
    """Cut images into patches: images (B, 3, H, W) -> maps (B, H / p, W / p, C), normalised.

    Args:
        in_chans: channels of the images.
        dim: C.
        patch_size: p.
        eps: of the layer norm.
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> maps (B, H / p, W / p, C)."""
        normed: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return normed


class PyramidBlock(nn.Module):
    """Pre-norm block: attention, if it has any, and an MLP, each on a residual path.

    Args:
        dim: channels C.
        attn: maps features (B, ..., C) to features of that shape; ``None`` for no attention.
        mlp: does so too.
        drop_path: rate of stochastic depth, in [0, 1).
        eps: of the layer norms.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module | None,
        mlp: nn.Module,
        *,
        drop_path: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps) if attn is not None else None
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = mlp
        self.drop_path = require("timm.layers").DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, ..., C) -> features of that shape."""
        if self.attn is not None and self.norm1 is not None:
            x = x + self.drop_path(self.attn(self.norm1(x)))
        mixed: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return mixed


class PyramidStage(nn.Module):
    """What enters a stage, then its blocks.

    Args:
        downsample: halves the maps of the stage before; ``None`` for the first stage.
        blocks: run in order.
        pos_embed: adds positions to the maps; ``None`` for none.

    Attributes:
        grad_checkpointing: whether blocks are computed again in the backward pass, to keep less.
    """

    def __init__(
        self,
        downsample: nn.Module | None,
        blocks: Sequence[nn.Module],
        *,
        pos_embed: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.pos_embed = nn.Identity() if pos_embed is None else pos_embed
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) -> features of the stage."""
        features: Tensor = self.pos_embed(self.downsample(x))
        if not self.grad_checkpointing:
            blocked: Tensor = self.blocks(features)
            return blocked
        for block in self.blocks:
            features = checkpoint(block, features, use_reentrant=False)
        return features
