"""How alike the tokens of each layer are: cosines, high against low frequencies, spectra.

Source: Xue et al., "A Study on Transformer Configuration and Training Objective", ICML 2023, arXiv
2205.10505, which takes the split into the mean token and the rest from Wang et al., ICLR 2022,
arXiv 2203.05962. Addition: the cosine after the mean feature of the data set is subtracted, as one
vector that all tokens share makes plain cosines large without making tokens alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError
from sartor.core.modes import eval_mode

__all__ = ["Smoothness", "high_over_low", "over_smoothing_report", "spectrum", "token_cosine"]

_FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True)
class Smoothness:
    """One layer, meaned over images.

    Attributes:
        layer: number of the block, or of the map where the model has stages.
        cosine: mean over pairs of tokens; 1 when they are all alike.
        centred_cosine: the same after the mean feature of all images is subtracted.
        high_over_low: norm of what differs from an image's mean token, over that of the mean; 0
            when they are all alike.
        rate: ``high_over_low`` over that of the layer before; NaN for the first.
        spectrum: log amplitude of each radius on the grid of patches, relative to radius 0.
    """

    layer: int
    cosine: float
    centred_cosine: float
    high_over_low: float
    rate: float
    spectrum: tuple[float, ...]


def token_cosine(tokens: Tensor) -> Tensor:
    """Mean cosine over all pairs of different tokens.

    Args:
        tokens: (..., N, D), N at least 2.

    Returns:
        (...), each in [-1 / (N - 1), 1].

    Raises:
        DataError: there is one token only.

    Example:
        >>> token_cosine(torch.ones(2, 3, 4)).tolist(), token_cosine(torch.eye(2)).item()
        ([1.0, 1.0], 0.0)
    """
    count = tokens.shape[-2]
    if count < 2:
        raise DataError(f"Cosines are of pairs of tokens, got {count}; take smaller patches.")
    units = tokens / tokens.norm(dim=-1, keepdim=True).clamp_min(_FLOOR)
    squares = units.square().sum(dim=(-2, -1))  # the pairs of a token with itself
    return (units.sum(dim=-2).square().sum(dim=-1) - squares) / (count * (count - 1))


def high_over_low(tokens: Tensor) -> Tensor:
    """Norm of the tokens (..., N, D) minus their mean, over the norm of N times their mean token.

    Example:
        >>> high_over_low(torch.stack([torch.eye(2), torch.ones(2, 2)])).round()
        tensor([1., 0.])
    """
    low = tokens.mean(dim=-2, keepdim=True)
    high = (tokens - low).square().sum(dim=(-2, -1)).sqrt()
    scale = math.sqrt(tokens.shape[-2]) * low.square().sum(dim=(-2, -1)).sqrt()
    return high / scale.clamp_min(_FLOOR)


def spectrum(maps: Tensor) -> Tensor:
    """Log amplitude by radius of frequency, relative to frequency 0.

    Args:
        maps: (B, D, H, W).

    Returns:
        One number for each whole radius from 0 to the largest; the first is 0.

    Example:
        >>> spectrum(torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2))
        tensor([0., 0.])
    """
    amplitude = torch.fft.fft2(maps.float()).abs().mean(dim=(0, 1))  # (H, W)
    rows, columns = (torch.fft.fftfreq(n, 1 / n, device=maps.device) for n in amplitude.shape)
    radius = (rows[:, None].square() + columns.square()).sqrt().round().long().flatten()
    sums = torch.zeros(int(radius.max()) + 1, device=maps.device)
    sums, counts = (
        sums.index_add(0, radius, values)
        for values in (amplitude.flatten(), torch.ones_like(amplitude).flatten())
    )
    logs = (sums / counts.clamp_min(1)).clamp_min(_FLOOR).log()
    return logs - logs[0]


def over_smoothing_report(
    model: nn.Module, images: Tensor, layers: Sequence[int] | None = None
) -> list[Smoothness]:
    """Measure how alike tokens are after each block, before the last norm and without class tokens.

    Residual connections and norms keep tokens from becoming equal: compare objectives at the same
    depth and on the same images, not one number alone.

    Args:
        model: one of timm's that has ``forward_intermediates``; its mode is left as it was.
        images: (B, C, H, W), held out.
        layers: numbers of blocks; ``None`` for all.

    Returns:
        One entry a layer, in the order of the layers.

    Raises:
        FamilyError: the model does not give the features of its layers, or has no such layer.
        DataError: there are no images, or a layer has one token only.

    Example:
        >>> from sartor.nn.bamboo.backbone import bamboo
        >>> vit = bamboo(embed_dim=64, depth=3, img_size=32, patch_size=8)
        >>> report = over_smoothing_report(vit, torch.randn(4, 3, 32, 32))
        >>> [one.layer for one in report], len(report[0].spectrum)
        ([0, 1, 2], 4)
    """
    if images.ndim != 4 or not len(images):
        raise DataError(f"Images (B, C, H, W) are needed, got a shape of {tuple(images.shape)}.")
    forward: Any = getattr(model, "forward_intermediates", None)
    if forward is None:
        raise FamilyError(
            f"{type(model).__name__} does not give the features of its layers; take a timm model "
            "with forward_intermediates."
        )
    with eval_mode(model), torch.no_grad():
        maps = forward(images, indices=None, norm=False, intermediates_only=True)  # (B, D, H, W)
    chosen = range(len(maps)) if layers is None else sorted(layers)
    for layer in chosen:
        if not 0 <= layer < len(maps):
            raise FamilyError(f"The layers are 0 to {len(maps) - 1}, got {layer}.")
    high = [high_over_low(_tokens(one)).mean().item() for one in maps]
    return [
        Smoothness(
            layer=layer,
            cosine=token_cosine(_tokens(maps[layer])).mean().item(),
            centred_cosine=token_cosine(_centred(_tokens(maps[layer]))).mean().item(),
            high_over_low=high[layer],
            rate=high[layer] / max(high[layer - 1], _FLOOR) if layer else math.nan,
            spectrum=tuple(spectrum(maps[layer]).tolist()),
        )
        for layer in chosen
    ]


def _tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2).float()  # (B, N, D)


def _centred(tokens: Tensor) -> Tensor:
    return tokens - tokens.mean(dim=(0, 1))
