"""Binary codes of attention's queries and keys: one set of kernel hash functions a head.

Source: Liu, Pan, He, Cai, Zhuang, "EcoFormer: Energy-Saving Attention with Linear Complexity",
NeurIPS 2022, arXiv 2209.09004, section 3. Deviations: functions are compared with the ones before
them head by head, pairs without a target are left out; the learning rate of the fit is 0.1, since
at the published 5e-4 they hardly move (0.02 in 100 steps); whether they are fitted is saved with
the weights; a value of 0 gives -1.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError, TrainingError
from sartor.nn.ecoformer.hash_fit import fit_projections, pair_targets

__all__ = ["KernelHash", "kernel_features", "sign_code"]


class _SignCode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x > 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0] * (x.abs() < 1)


def sign_code(x: Tensor) -> Tensor:
    """Signs in {-1, +1}, never 0; the gradient passes unchanged where ``|x| < 1``.

    Example:
        >>> sign_code(torch.tensor([-2.0, 0.0, 3.0])).tolist()
        [-1.0, -1.0, 1.0]
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return torch.where(x > 0, 1.0, -1.0).to(x.dtype)
    code: Tensor = _SignCode.apply(x)
    return code


def kernel_features(z: Tensor, anchors: Tensor) -> Tensor:
    """Gaussian kernels between tokens and anchors, with the width that each image and head needs.

    Args:
        z: tokens of each head (B, H, N, d).
        anchors: (H, m, d).

    Returns:
        exp(-|z - a|^2 / (2 s)) as (B, H, N, m), s the mean of |z - a|^2 over tokens and anchors.
    """
    squares = z.square().sum(dim=-1, keepdim=True) + anchors.square().sum(dim=-1).unsqueeze(1)
    distances = (squares - 2 * z @ anchors.transpose(-2, -1)).clamp_min(0)  # (B, H, N, m)
    width = distances.mean(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
    return torch.exp(-distances / (2 * width))


class KernelHash(nn.Module):
    """Tokens of each head to codes of ``num_bits`` signs.

    Anchors, means and projections are buffers: the network's loss does not change them.

    Args:
        num_heads: H.
        head_dim: d.
        num_bits: b, signs a code.
        num_anchors: m, tokens that all others are compared with.
        random: whether the functions start usable, with random unit anchors, and not unfitted.

    Raises:
        FamilyError: a number is below 1.

    Example:
        >>> codes = KernelHash(2, 8, random=True)(torch.randn(3, 2, 30, 8))
        >>> codes.shape, codes.abs().min().item()
        (torch.Size([3, 2, 30, 16]), 1.0)
    """

    weight: Tensor
    anchors: Tensor
    mean: Tensor
    is_fitted: Tensor

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        num_bits: int = 16,
        num_anchors: int = 25,
        *,
        random: bool = False,
    ) -> None:
        super().__init__()
        numbers = (num_heads, head_dim, num_bits, num_anchors)
        if min(numbers) < 1:
            raise FamilyError(
                "A kernel hash takes heads, channels, bits and anchors of at least 1, got "
                f"{numbers}."
            )
        self.num_heads, self.head_dim = num_heads, head_dim
        self.num_bits, self.num_anchors = num_bits, num_anchors
        anchors = F.normalize(torch.randn(num_heads, num_anchors, head_dim), dim=-1)
        self.register_buffer("weight", torch.randn(num_heads, num_bits, num_anchors))
        self.register_buffer("anchors", anchors)
        self.register_buffer("mean", torch.zeros(num_heads, num_anchors))
        self.register_buffer("is_fitted", torch.tensor(random))
        if random:
            others = F.normalize(torch.randn(1, num_heads, 64, head_dim), dim=-1)
            self.mean.copy_(kernel_features(others, anchors).mean(dim=(0, 2)))

    def values(self, z: Tensor) -> Tensor:
        """What the signs are taken of: tokens (B, H, N, d) -> (B, H, N, b)."""
        centred = kernel_features(z, self.anchors) - self.mean.unsqueeze(1)  # (B, H, N, m)
        return centred @ self.weight.transpose(-2, -1)

    def forward(self, z: Tensor) -> Tensor:
        """Tokens (B, H, N, d), each of norm 1 -> codes (B, H, N, b) in {-1, +1}.

        Raises:
            TrainingError: the functions were not fitted; a ``RuntimeError`` too.
        """
        if not (torch.compiler.is_compiling() or self.is_fitted.is_meta or self.is_fitted):
            raise TrainingError(
                "The hash functions are not fitted; call fit_hashes_(model, images) once, before "
                "any training."
            )
        return sign_code(self.values(z))

    @torch.no_grad()
    def fit(
        self,
        z: Tensor,
        *,
        topk: int = 10,
        steps: int = 100,
        lr: float = 0.1,
        masked: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Choose anchors and learn the projections so that close tokens get close codes.

        Takes memory for 12 * B * H * N^2 bytes.

        Args:
            z: tokens of norm 1 (B, H, N, d), of a batch of several images.
            topk: nearest and farthest tokens of each token that count, the token itself included.
            steps: of SGD a bit.
            lr: its learning rate, at least 0; the paper's is 5e-4.
            masked: whether pairs that are neither near nor far are left out; the official code
                draws their codes to half agreement.
            generator: draws anchors; ``None`` is torch's.

        Returns:
            The loss of signs before and after, of each bit and head: (b, 2, H).

        Raises:
            DataError: there are fewer tokens than anchors or than 2 * ``topk``, they have another
                shape, or a number is outside its range.
            TrainingError: the projections ran away to infinity.
        """
        self._check(z, topk, steps, lr)
        if len(z) == 1:
            warnings.warn("Hash functions are fitted on one image; give several.", stacklevel=2)
        chosen = torch.randperm(z.shape[2], generator=generator)[: self.num_anchors].to(z.device)
        self.anchors.copy_(z[0, :, chosen])
        features = kernel_features(z, self.anchors)
        self.mean.copy_(features.mean(dim=(0, 2)))
        weight, losses = fit_projections(
            features - self.mean.unsqueeze(1),
            pair_targets(z, topk),
            self.weight,
            steps=steps,
            lr=lr,
            masked=masked,
        )
        self.weight.copy_(weight)
        self.is_fitted.fill_(True)
        return losses

    @torch.no_grad()
    def affinity_error(self, z: Tensor, *, topk: int = 10) -> float:
        """Mean squared error of h_i h_j / b against the targets +1 and -1, over the pairs that have
        one.

        Args:
            z: tokens of norm 1 (B, H, N, d).
            topk: as in :meth:`fit`.
        """
        targets, codes = pair_targets(z, topk), self(z)
        affinity = codes @ codes.transpose(-2, -1) / self.num_bits  # (B, H, N, N)
        return float((affinity - targets).square()[targets != 0].mean())

    def _check(self, z: Tensor, topk: int, steps: int, lr: float) -> None:
        if z.ndim != 4 or (z.shape[1], z.shape[3]) != (self.num_heads, self.head_dim):
            raise DataError(
                f"The hash takes tokens (B, {self.num_heads}, N, {self.head_dim}), got "
                f"{tuple(z.shape)}."
            )
        if topk < 1 or steps < 1 or not 0 <= lr < float("inf"):
            raise DataError(
                "Fitting takes topk and steps of at least 1 and a learning rate of at least 0, got "
                f"{topk}, {steps} and {lr}."
            )
        tokens, needed = z.shape[2], max(self.num_anchors, 2 * topk)
        if tokens < needed:
            raise DataError(
                f"{tokens} tokens are too few for {self.num_anchors} anchors and the {topk} "
                "nearest "
                f"and farthest; {needed} are needed: take fewer, or larger images."
            )
