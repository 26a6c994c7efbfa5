"""Deformable token merging: halve a map with taps that learn where to read.

Source: Pan, Zhuang, He, Liu, Cai, "Less is More: Pay Less Attention in Vision Transformers", AAAI
2022, arXiv 2105.14217, section 3.3: a deformable convolution whose kernel is as large as its
stride, batch norm, GELU. As windows do not overlap, reading all taps gives a map of the input's
size, and a strided convolution of that map is the deformable convolution. Deviation: it is
computed so, with torch's ``grid_sample``, and not by ``torchvision.ops.deform_conv2d``, whose
numbers are the same; on a CPU that was slower, most of all backward. Reading is in float32 or
float64, since half precision cannot tell neighbouring pixels of a large map apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError

__all__ = ["DeformableTokenMerging", "param_groups", "read_taps"]


def read_taps(x: Tensor, offsets: Tensor, kernel_size: int) -> Tensor:
    """Read a map at every pixel moved by its offset, bilinearly, zero outside.

    Args:
        x: map (B, C, H, W); both sides are multiples of the kernel's.
        offsets: (B, 2 * k * k, H / k, W / k) in pixels; for each tap of the kernel, row by row, its
            dy and its dx, the order of ``torchvision.ops.deform_conv2d``.
        kernel_size: k.

    Returns:
        (B, C, H, W): at (k * i + u, k * j + v) what tap (u, v) of window (i, j) reads.
    """
    b, _, height, width = x.shape
    k, (h, w) = kernel_size, offsets.shape[-2:]
    exact = torch.promote_types(x.dtype, torch.float32)
    moved = offsets.to(exact).view(b, k, k, 2, h, w).permute(0, 4, 1, 5, 2, 3)
    moved = moved.reshape(b, height, width, 2)  # dy and dx of every pixel
    rows = torch.arange(height, device=x.device, dtype=exact)[:, None] + moved[..., 0]
    columns = torch.arange(width, device=x.device, dtype=exact) + moved[..., 1]  # (B, H, W)
    tall, wide = (1 << (side - 1).bit_length() for side in (height, width))
    grid = torch.stack(((2 * columns + 1) / wide - 1, (2 * rows + 1) / tall - 1), dim=-1)
    padded = F.pad(x.to(exact), (0, wide - width, 0, tall - height))  # powers of 2 divide exactly
    read = F.grid_sample(padded, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return read.to(x.dtype)


class DeformableTokenMerging(nn.Module):
    """Merge windows of k x k positions into one, at places that it learns.

    Offsets start at zero: a fresh one is a strided convolution, batch norm and activation.

    Args:
        in_chs: channels C.
        out_chs: channels C'.
        kernel_size: side k of a window, at least 2.
        norm_layer: makes the normalisation of C' channels.
        act_layer: makes the activation.
        channels_last: whether maps are (B, H, W, C) and not (B, C, H, W).

    Example:
        >>> DeformableTokenMerging(8, 16)(torch.zeros(2, 8, 4, 6)).shape
        torch.Size([2, 16, 2, 3])
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel_size: int = 2,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        act_layer: type[nn.Module] = nn.GELU,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.channels_last = kernel_size, channels_last
        self.offset = nn.Conv2d(in_chs, 2 * kernel_size**2, kernel_size, stride=kernel_size)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride=kernel_size)
        self.norm = norm_layer(out_chs)
        self.act = act_layer()

    def forward(self, x: Tensor, return_offsets: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Merge a map.

        Args:
            x: (B, C, H, W), or (B, H, W, C) if ``channels_last``; H and W are multiples of k.
            return_offsets: whether the offsets (B, 2 * k * k, H / k, W / k) are returned too.

        Returns:
            (B, C', H / k, W / k), or (B, H / k, W / k, C').

        Raises:
            DataError: a side is no multiple of k, or one value per channel is to be normalised in
                training.
        """
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        self._check(x)
        offsets = self.offset(x)  # (B, 2 * k * k, H / k, W / k)
        merged = self.act(self.norm(self.conv(read_taps(x, offsets, self.kernel_size))))
        if self.channels_last:
            merged = merged.permute(0, 2, 3, 1)
        return (merged, offsets) if return_offsets else merged

    def _check(self, x: Tensor) -> None:
        b, _, h, w = x.shape
        k = self.kernel_size
        if h % k or w % k:
            raise DataError(
                f"Token merging halves maps whose sides are multiples of {k}, got {h} x {w}; pad "
                "the images or resize them."
            )
        if self.training and isinstance(self.norm, nn.BatchNorm2d) and (h, w) == (k, k) and b == 1:
            raise DataError(
                f"Token merging normalises over a batch, and one map of {h} x {w} leaves one value "
                "a channel; train with batches of at least 2 or larger images."
            )


def param_groups(
    model: nn.Module, *, lr: float, weight_decay: float, offset_lr_scale: float = 0.01
) -> list[dict[str, Any]]:
    """Sort the weights of a pyramid as LIT and LITv2 were trained.

    The weights of offset convolutions learn slowly; biases, norms and what the model's
    ``no_weight_decay`` names do not decay.

    Args:
        model: has :class:`DeformableTokenMerging` anywhere inside.
        lr: learning rate.
        weight_decay: of the weights that decay.
        offset_lr_scale: learning rate of the offsets' weights, in units of ``lr``.

    Returns:
        Groups for an optimiser, those without parameters left out.

    Example:
        >>> groups = param_groups(DeformableTokenMerging(4, 8), lr=1e-3, weight_decay=0.05)
        >>> [(len(group["params"]), group["lr"]) for group in groups]
        [(1, 0.001), (1, 1e-05), (4, 0.001)]
    """
    exempt = set(getattr(model, "no_weight_decay", set)())
    slow = {
        f"{name}.offset.weight".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, DeformableTokenMerging)
    }
    decayed: list[nn.Parameter] = []
    moved: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name in slow:
            moved.append(parameter)
        elif parameter.ndim <= 1 or name in exempt:
            plain.append(parameter)
        else:
            decayed.append(parameter)
    table: Sequence[tuple[list[nn.Parameter], float, float]] = (
        (decayed, lr, weight_decay),
        (moved, lr * offset_lr_scale, weight_decay),
        (plain, lr, 0.0),
    )
    return [{"params": p, "lr": rate, "weight_decay": decay} for p, rate, decay in table if p]
