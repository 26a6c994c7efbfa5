"""Masked autoencoding of images for any of timm's vision transformers.

Source: He, Chen, Xie, Li, Dollar, Girshick, "Masked Autoencoders Are Scalable Vision Learners",
CVPR 2022, arXiv 2111.06377, the objective that Xue et al., arXiv 2205.10505, study with deeper and
narrower encoders. Deviations:
fixed positions of the decoder are timm's, whose channels have another order; an encoder that
normalises its mean token normalises each token with the same weights here, so that these are
trained too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError
from sartor.core.packages import require
from sartor.nn.bamboo.masked_patches import masked_loss, normalised_patches, patchify, random_mask

__all__ = [
    "MaskedAutoencoder",
    "MaskedOutput",
]

_PARTS = ("patch_embed", "_pos_embed", "norm_pre", "blocks", "norm", "fc_norm")


class MaskedOutput(NamedTuple):
    """What a masked autoencoder gives.

    Attributes:
        loss: scalar.
        pred: of every patch (B, N, p * p * C).
        mask: (B, N), 1 where a patch was hidden, 0 where it was seen.
    """

    loss: Tensor
    pred: Tensor
    mask: Tensor


class MaskedAutoencoder(nn.Module):
    """Hides most patches of an image and learns to fill them in.

    Args:
        encoder: a timm ``VisionTransformer`` of a fixed image size; it is trained in place, and is
            what remains afterwards. Its classifier has no part.
        mask_ratio: share of patches that is hidden, above 0 and below 1.
        decoder_dim: width of the decoder, a multiple of 4 and of its heads.
        decoder_depth: blocks of the decoder.
        decoder_heads: heads of each of its blocks.
        norm_pix_loss: whether each patch is normalised before it is compared.

    Raises:
        FamilyError: the encoder is of another kind, or a number is outside its range.

    Example:
        >>> from sartor.nn.bamboo.backbone import bamboo
        >>> vit = bamboo(embed_dim=64, depth=2, img_size=32, patch_size=4)
        >>> model = MaskedAutoencoder(vit, decoder_dim=32, decoder_depth=1, decoder_heads=2)
        >>> loss, pred, mask = model(torch.randn(2, 3, 32, 32))
        >>> loss.backward()
        >>> pred.shape, mask.sum(dim=1)
        (torch.Size([2, 64, 48]), tensor([48., 48.]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        norm_pix_loss: bool = True,
    ) -> None:
        super().__init__()
        vit: Any = encoder
        self.grid, self.patch_size, channels = _patches(vit)
        count = self.grid[0] * self.grid[1]
        if not 0 < mask_ratio < 1:
            raise FamilyError(
                f"The mask_ratio lies between 0 and 1, got {mask_ratio}; 0.75 is usual."
            )
        self.keep = round(count * (1 - mask_ratio))
        if not 0 < self.keep < count:
            raise FamilyError(
                f"A mask_ratio of {mask_ratio} sees {self.keep} of {count} patches; at least one "
                "is "
                "seen and one is hidden: take another ratio or smaller patches."
            )
        if decoder_depth < 1 or decoder_heads < 1 or decoder_dim % 4 or decoder_dim % decoder_heads:
            raise FamilyError(
                "A decoder has at least one block and one head, and a width that is a multiple of "
                "4 "
                f"and of its heads, got {decoder_depth}, {decoder_heads} and {decoder_dim}."
            )
        self.norm_pix_loss = norm_pix_loss
        self.encoder = encoder
        self.decoder_embed = nn.Linear(vit.embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_dim))
        positions = require("timm.layers").build_sincos2d_pos_embed(list(self.grid), decoder_dim)
        self.decoder_positions: Tensor
        self.register_buffer("decoder_positions", positions[None], persistent=False)
        block = require("timm.models.vision_transformer").Block
        self.decoder_blocks = nn.Sequential(
            *(block(decoder_dim, decoder_heads, qkv_bias=True) for _ in range(decoder_depth))
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, self.patch_size**2 * channels)
        self._init_decoder()

    def _init_decoder(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.decoder_embed, *self.decoder_blocks.modules(), self.decoder_pred):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> MaskedOutput:
        """Hide patches, fill them in, compare.

        Args:
            images: (B, C, H, W).
            noise: (B, N), whose smallest are seen; ``None`` for uniform noise of torch's generator.

        Raises:
            DataError: the images or the noise have another size than the encoder's.
        """
        self._check(images, noise)
        if noise is None:
            noise = torch.rand(images.shape[0], self.grid[0] * self.grid[1], device=images.device)
        kept, restore, mask = random_mask(noise, self.keep)
        pred = self.decode(self.encode(images, kept), restore)
        target = patchify(images, self.patch_size)
        if self.norm_pix_loss:
            target = normalised_patches(target)
        return MaskedOutput(masked_loss(pred, target, mask), pred, mask)

    def _check(self, images: Tensor, noise: Tensor | None) -> None:
        size, count = tuple(self.patch_size * n for n in self.grid), self.grid[0] * self.grid[1]
        if images.ndim != 4 or tuple(images.shape[-2:]) != size:
            raise DataError(
                f"This masked autoencoder takes images (B, C, {size[0]}, {size[1]}) and was given "
                f"{tuple(images.shape)}; resize them, or make the encoder with that img_size."
            )
        if noise is not None and tuple(noise.shape) != (len(images), count):
            raise DataError(
                f"The noise has one number for each of {len(images)} x {count} patches, got "
                f"{tuple(noise.shape)}."
            )

    def encode(self, images: Tensor, kept: Tensor) -> Tensor:
        """Normalised tokens (B, prefix + keep, D) of the patches at ``kept`` (B, keep)."""
        vit: Any = self.encoder
        x = vit._pos_embed(vit.patch_embed(images))  # (B, prefix + N, D)
        prefix, patches = x.tensor_split([vit.num_prefix_tokens], dim=1)
        patches = patches.gather(1, kept[..., None].expand(-1, -1, x.shape[-1]))
        x = vit.blocks(vit.norm_pre(torch.cat([prefix, patches], dim=1)))
        codes: Tensor = vit.fc_norm(vit.norm(x))
        return codes

    def decode(self, codes: Tensor, restore: Tensor) -> Tensor:
        """Pixels (B, N, p * p * C) of all patches, from tokens of :meth:`encode` and the order."""
        vit: Any = self.encoder
        x = self.decoder_embed(codes)
        prefix, seen = x.tensor_split([vit.num_prefix_tokens], dim=1)
        hidden = self.mask_token.expand(x.shape[0], restore.shape[1] - self.keep, -1)
        patches = torch.cat([seen, hidden], dim=1)  # (B, N, D), in shuffled order
        patches = patches.gather(1, restore[..., None].expand_as(patches))
        x = torch.cat([prefix, patches + self.decoder_positions], dim=1)
        x = self.decoder_norm(self.decoder_blocks(x))[:, vit.num_prefix_tokens :]
        pixels: Tensor = self.decoder_pred(x)
        return pixels

    def encoder_state(self) -> dict[str, Tensor]:
        """Weights of the encoder but its classifier: what fine-tuning starts from.

        Load them with ``strict=False``, or go on with ``encoder`` itself.
        """
        state: dict[str, Tensor] = self.encoder.state_dict()
        return {key: value for key, value in state.items() if not key.startswith("head.")}


def _patches(encoder: Any) -> tuple[tuple[int, int], int, int]:
    """Grid, side of the patches and channels of a vision transformer."""
    lacking = [name for name in _PARTS if not hasattr(encoder, name)]
    if lacking or getattr(encoder.patch_embed, "grid_size", None) is None:
        raise FamilyError(
            "A masked autoencoder takes one of timm's VisionTransformers with a fixed img_size, "
            "got "
            f"a {type(encoder).__name__} without {lacking[0] if lacking else 'a grid of patches'}."
        )
    height, width = encoder.patch_embed.patch_size
    if height != width:
        raise FamilyError(f"Patches must be square to be filled in, got {height} x {width}.")
    return tuple(encoder.patch_embed.grid_size), height, encoder.patch_embed.proj.in_channels
