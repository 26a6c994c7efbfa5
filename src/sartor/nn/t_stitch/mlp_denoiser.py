"""A denoiser small enough for vectors and a laptop: a residual MLP that is told the timestep."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = ["MLPDenoiser", "timestep_embedding"]

EMBED_DIM = 32
MAX_PERIOD = 10_000.0


def timestep_embedding(timestep: Tensor | float, dim: int = EMBED_DIM) -> Tensor:
    """Embed timesteps as the cosines and sines of frequencies from 1 down to 1e-4.

    Args:
        timestep: one, or (B,), at least 0.
        dim: width of the embedding, even.

    Returns:
        (dim,) for one timestep, else (B, dim).

    Example:
        >>> timestep_embedding(0, dim=4)
        tensor([1., 1., 0., 0.])
    """
    half = dim // 2
    device = timestep.device if isinstance(timestep, Tensor) else None
    powers = torch.arange(half, device=device) / half  # (D / 2,)
    frequencies = torch.exp(-math.log(MAX_PERIOD) * powers)  # (D / 2,)
    value = timestep.unsqueeze(-1) if isinstance(timestep, Tensor) else timestep
    angles = value * frequencies  # (..., D / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # (..., D)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.silu(self.up(self.norm(features)))  # (B, 2 W)
        output: Tensor = features + self.down(hidden)  # (B, W)
        return output


class MLPDenoiser(nn.Module):
    """Predicts the noise in noisy vectors.

    Args:
        width: of the residual stream, at least 1.
        depth: number of blocks, at least 1.
        features: D, the length of a vector.

    Raises:
        FamilyError: a number is below 1.

    Example:
        >>> model = MLPDenoiser(width=16, depth=1)
        >>> sum(p.numel() for p in model.parameters())
        3760
        >>> model(torch.zeros(2, 64), 999).shape
        torch.Size([2, 64])
    """

    def __init__(self, *, width: int, depth: int, features: int = 64) -> None:
        super().__init__()
        if min(width, depth, features) < 1:
            raise FamilyError(
                "The width, depth and features of a denoiser must be at least 1, got "
                f"{width}, {depth} and {features}."
            )
        self.embed = nn.Linear(EMBED_DIM, width)
        self.stem = nn.Linear(features, width)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.head = nn.Linear(width, features)

    def forward(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """Noisy vectors (B, D) and a timestep, one or (B,) -> the noise in them (B, D)."""
        embedding = timestep_embedding(timestep).to(sample)
        noise: Tensor = self.head(self.blocks(self.stem(sample) + self.embed(embedding)))
        return noise
