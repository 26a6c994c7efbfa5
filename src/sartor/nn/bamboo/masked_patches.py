"""What masked autoencoding does to images: patches out and in, which are hidden, how they are
compared.

Source: He, Chen, Xie, Li, Dollar, Girshick, "Masked Autoencoders Are Scalable Vision Learners",
CVPR 2022, arXiv 2111.06377. The variance of a patch is the unbiased one, as in the authors' code.
"""

from __future__ import annotations

from torch import Tensor

from sartor.core.errors import DataError

__all__ = ["masked_loss", "normalised_patches", "patchify", "random_mask", "unpatchify"]

#: added to the variance of a patch
EPS = 1e-6


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images (B, C, H, W) into patches (B, N, p * p * C), row by row, channels last.

    Raises:
        DataError: the patches do not divide the image.

    Example:
        >>> import torch
        >>> patchify(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 1]
        tensor([2., 3., 6., 7.])
    """
    height, width = images.shape[-2:]
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise DataError(
            f"Patches of {patch_size} do not divide images of {height} x {width}; resize the "
            "images or take other patches."
        )
    p = patch_size
    grid = images.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, C, h, p, w, p)
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Inverse of :func:`patchify`: (B, h * w, p * p * C) -> (B, C, h * p, w * p)."""
    p = patch_size
    x = patches.unflatten(2, (p, p, -1)).unflatten(1, grid)  # (B, h, w, p, p, C)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def normalised_patches(patches: Tensor) -> Tensor:
    """Each patch (..., P) minus its mean, over the root of its unbiased variance plus 1e-6."""
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - patches.mean(dim=-1, keepdim=True)) / (variance + EPS).sqrt()


def random_mask(noise: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which patches are seen: those with the least noise.

    Args:
        noise: (B, N).
        keep: patches that are seen, from 1 to N - 1.

    Returns:
        Indices of those that are seen (B, keep), the order that undoes the shuffle (B, N), and the
        mask (B, N) of the hidden ones.

    Example:
        >>> import torch
        >>> random_mask(torch.tensor([[0.9, 0.1, 0.5]]), 1)
        (tensor([[1]]), tensor([[2, 0, 1]]), tensor([[1., 0., 1.]]))
    """
    shuffle = noise.argsort(dim=1)
    restore = shuffle.argsort(dim=1)
    return shuffle[:, :keep], restore, (restore >= keep).to(noise.dtype)


def masked_loss(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Squared error of patches (B, N, P), meaned over those whose mask (B, N) is 1."""
    return ((pred - target).square().mean(dim=-1) * mask).sum() / mask.sum()
