"""Patches in and out, and halves and doubles of maps with channels last."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = ["PatchEmbed", "PatchExpanding", "PatchInflated", "PatchMerging"]


class PatchEmbed(nn.Module):
    """Image (B, C, H, W) -> normalised patches (B, H / p, W / p, D)."""

    def __init__(self, in_chans: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Cut into patches and map each."""
        patches: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return patches


class PatchMerging(nn.Module):
    """Half the size, twice the channels: (B, H, W, D) -> (B, H / 2, W / 2, 2 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Join 2 x 2 neighbours, by columns, and map them."""
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return merged


class PatchExpanding(nn.Module):
    """Twice the size, half the channels: (B, H, W, D) -> (B, 2 H, 2 W, D / 2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(dim // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map each pixel to 2 x 2 of them."""
        height, width = x.shape[1:3]
        x = self.expand(x).unflatten(-1, (2, 2, -1))  # (B, H, W, 2, 2, D / 2)
        x = x.transpose(2, 3).reshape(x.shape[0], 2 * height, 2 * width, -1)
        expanded: Tensor = self.norm(x)
        return expanded


class PatchInflated(nn.Module):
    """Patches back to pixels, by transposed convolutions that double the size: (B, h, w, D) ->
    (B, C, p h, p w).

    Args:
        dim: channels D; a multiple of 16 if ``patch_size`` is above 2.
        out_chans: channels C of the image.
        patch_size: p, a power of two, at least 2.

    Raises:
        FamilyError: the patch size or the channels do not fit.
    """

    def __init__(self, dim: int, out_chans: int, patch_size: int) -> None:
        super().__init__()
        if patch_size < 2 or patch_size & (patch_size - 1):
            raise FamilyError(
                f"Patches are inflated from a size that is a power of two, at least 2, got "
                f"{patch_size}."
            )
        if patch_size > 2 and dim % 16:
            raise FamilyError(
                f"Patches of {patch_size} pixels need a multiple of 16 channels, got {dim}; take "
                f"{dim + -dim % 16}."
            )
        doubling = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}
        layers: list[nn.Module] = []
        for _ in range(patch_size.bit_length() - 2):
            layers.append(nn.ConvTranspose2d(dim, dim, **doubling))
            layers.append(nn.GroupNorm(16, dim))
            layers.append(nn.LeakyReLU(0.2))
        self.hidden = nn.Sequential(*layers)
        self.to_pixels = nn.ConvTranspose2d(dim, out_chans, **doubling)

    def forward(self, x: Tensor) -> Tensor:
        """Inflate."""
        pixels: Tensor = self.to_pixels(self.hidden(x.permute(0, 3, 1, 2)))
        return pixels
