"""Sprites that move over a torus at a constant velocity: sequences to forecast, generated from a
seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sartor.core.errors import DataError
from sartor.core.packages import require

__all__ = ["bump_sprite", "digit_sprites", "moving_frames"]


#: velocities to the eight neighbours of a pixel
NEIGHBOURS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


def moving_frames(
    sprites: Tensor,
    count: int,
    length: int,
    size: int,
    *,
    generator: torch.Generator,
    velocities: Sequence[tuple[int, int]] = NEIGHBOURS,
) -> Tensor:
    """Draw sequences of one sprite each, which leaves at one edge and comes in at the other.

    Sprite, place and velocity of each sequence are drawn evenly and apart.

    Args:
        sprites: (S, h, w) in [0, 1], not larger than a frame.
        count: sequences N, at least 1.
        length: frames T of a sequence, at least 1.
        size: height and width of a frame in pixels.
        generator: on the CPU.
        velocities: pixels a frame, down and to the right, of which one is drawn.

    Returns:
        (N, T, 1, size, size) in [0, 1].

    Raises:
        DataError: a number is too small, or the sprites are not of this kind.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> moving_frames(bump_sprite(), 2, 8, 8, generator=draw).shape
        torch.Size([2, 8, 1, 8, 8])
    """
    fits = sprites.ndim == 3 and 0 < max(sprites.shape[1:]) <= size and len(sprites) > 0
    if not fits or min(count, length, len(velocities)) < 1:
        raise DataError(
            "Moving frames take sprites (S, h, w) that fit the frame, and at least 1 sequence, "
            f"frame and velocity, got sprites {tuple(sprites.shape)} for {size} pixels, {count}, "
            f"{length} and {len(velocities)}."
        )
    canvas = torch.zeros(len(sprites), size, size)
    canvas[:, : sprites.shape[1], : sprites.shape[2]] = sprites
    kind = torch.randint(len(sprites), (count,), generator=generator)
    start = torch.randint(size, (2, count, 1), generator=generator)
    chosen = torch.randint(len(velocities), (count,), generator=generator)
    speed = torch.tensor(velocities)[chosen].T.unsqueeze(-1)  # (2, N, 1)
    moved = start + speed * torch.arange(length)  # (2, N, T)
    pixel = torch.arange(size)
    down, right = (pixel - moved.unsqueeze(-1)) % size  # (N, T, size) each
    rows, columns = down.unsqueeze(-1), right.unsqueeze(-2)
    return canvas[kind.view(-1, 1, 1, 1), rows, columns].unsqueeze(2)


def bump_sprite() -> Tensor:
    """One bump of 3 x 3 pixels: 1 in the middle, 0.6 beside it, 0.3 in the corners: (1, 3, 3)."""
    return torch.tensor([[[0.3, 0.6, 0.3], [0.6, 1.0, 0.6], [0.3, 0.6, 0.3]]])


def digit_sprites() -> Tensor:
    """The 1797 handwritten digits of scikit-learn: (1797, 8, 8) in [0, 1]."""
    images = require("sklearn.datasets").load_digits().images
    return torch.tensor(images, dtype=torch.float32) / 16
