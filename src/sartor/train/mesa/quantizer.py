"""Quantise a tensor to few bits and back, with one range for each group of values.

Source: Pan, Chen, He, Liu, Cai, Zhuang, Mesa: A Memory-saving Training Framework for Transformers,
    2021, arXiv 2111.11124, equations 2 and 3. Deviations: values above the range are clipped, as
    the paper writes, where the authors' kernel lets them wrap around; stochastic rounding draws 16
    bits a value; a group of equal values has a range of 1e-30 instead of 0; 2 and 4 bits share
    bytes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "decode",
    "encode",
    "encode_in_pieces",
    "pack_codes",
    "rounding_noise",
    "running",
    "unpack_codes",
]

#: the least range of a group, so that nothing is divided by 0
FLOOR = 1e-30
#: values that are encoded at once: few enough for a cache and for what memory is left
PIECE = 1 << 17


def running(
    old: tuple[Tensor, Tensor] | None, low: Tensor, high: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    """Move the estimated range of each group towards what a batch shows.

    Args:
        old: range and offset so far, (groups,) each; ``None`` takes those of the batch.
        low: least value of each group, (groups,).
        high: greatest value of each group, (groups,).
        momentum: weight of the old estimate, in [0, 1).

    Returns:
        Range alpha and offset beta, (groups,) each.

    Example:
        >>> first = running(None, torch.tensor([-1.0]), torch.tensor([9.0]), 0.9)
        >>> alpha, beta = running(first, torch.tensor([-3.0]), torch.tensor([17.0]), 0.9)
        >>> round(float(alpha), 6), round(float(beta), 6)
        (11.0, -1.2)
    """
    alpha, beta = high - low, low
    if old is None:
        return alpha, beta
    return torch.lerp(alpha, old[0], momentum), torch.lerp(beta, old[1], momentum)


def rounding_noise(
    shape: tuple[int, ...], device: torch.device, generator: torch.Generator
) -> Tensor:
    """Draw numbers above 0 and below 1 with mean one half, 16 random bits each.

    Four numbers come of one 64-bit draw, as drawing is the slowest part of stochastic rounding.
    """
    count = math.prod(shape)
    drawn = torch.empty(-(-count // 4), dtype=torch.int64, device=device)
    drawn.random_(-(2**63), None, generator=generator)
    bits = drawn.view(torch.int16)[:count].view(shape)  # -32768..32767
    return torch.mul(bits, 2.0**-16).add_(0.5 + 2.0**-17)


def encode(
    x: Tensor, alpha: Tensor, beta: Tensor, *, bits: int = 8, noise: Tensor | None = None
) -> Tensor:
    """Write values as whole numbers between 0 and ``2**bits - 1``.

    Args:
        x: (outer, groups, inner), floating.
        alpha: range of each group, (groups,).
        beta: value that becomes 0, (groups,).
        bits: at most 8.
        noise: same shape as ``x``, in (0, 1): rounds stochastically; ``None`` rounds to nearest.

    Returns:
        uint8 of the same shape; what lies outside the range has the code of its nearer end.

    Example:
        >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0, 20.0]).view(1, 1, 5)
        >>> encode(x, torch.tensor([3.0]), torch.tensor([0.0])).flatten().tolist()
        [0, 85, 170, 255, 255]
    """
    top, inner = 2**bits - 1, x.shape[2]
    codes = x.to(torch.float32) - _spread(beta, inner)
    codes.mul_(_spread(top / alpha.clamp_min(FLOOR), inner))
    codes.add_(0.5 if noise is None else noise)
    return codes.clamp_(0, top).to(torch.uint8)  # cuts off what lies behind the point


def encode_in_pieces(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    *,
    bits: int = 8,
    generator: torch.Generator | None = None,
    keep_sign: bool = False,
) -> Tensor:
    """:func:`encode` with memory for some values at a time.

    Args:
        x: (outer, groups, inner), floating.
        alpha: range of each group, (groups,).
        beta: value that becomes 0, (groups,).
        bits: at most 8.
        generator: of the rounding; ``None`` rounds to nearest.
        keep_sign: no value above 0 gets the code 0, as ReLU's gradient asks which are above.
    """
    codes = torch.empty_like(x, dtype=torch.uint8, memory_format=torch.contiguous_format)
    dim = 0 if len(x) > 1 else 2
    run = max(1, PIECE * x.shape[dim] // max(1, x.numel()))
    for piece, out in zip(x.split(run, dim), codes.split(run, dim), strict=True):
        noise = None
        if generator is not None:
            noise = rounding_noise(tuple(piece.shape), x.device, generator)
        made = encode(piece, alpha, beta, bits=bits, noise=noise)
        out.copy_(torch.where(piece > 0, made.clamp_min(1), made) if keep_sign else made)
    return codes


def decode(codes: Tensor, alpha: Tensor, beta: Tensor, *, bits: int = 8) -> Tensor:
    """Inverse of :func:`encode`, as float32 of the codes' shape (outer, groups, inner)."""
    step, inner = alpha.clamp_min(FLOOR) / (2**bits - 1), codes.shape[2]
    return codes.to(torch.float32).mul_(_spread(step, inner)).add_(_spread(beta, inner))


def _spread(value: Tensor, inner: int) -> Tensor:
    """Bring (groups,) to (1, groups, 1), or for short runs to (1, groups, inner), whose rows are
    read faster.
    """
    column = value.view(1, -1, 1)
    return column if inner >= 256 else column.expand(-1, -1, inner).contiguous()


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Put ``8 // bits`` codes into each byte.

    Args:
        codes: uint8 below ``2**bits``, any shape.
        bits: 1, 2, 4 or 8.

    Returns:
        uint8 (bytes,).

    Example:
        >>> pack_codes(torch.tensor([1, 2, 3], dtype=torch.uint8), 4).tolist()
        [33, 3]
    """
    flat = codes.reshape(-1)
    each = 8 // bits
    if each == 1:
        return flat
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % each)).view(-1, each)
    packed = padded[:, 0].clone()
    for place in range(1, each):
        packed |= padded[:, place] << bits * place
    return packed


def unpack_codes(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`pack_codes` for codes of ``shape``."""
    each = 8 // bits
    if each == 1:
        return packed.view(shape)
    places = [packed >> bits * place & 2**bits - 1 for place in range(each)]
    return torch.stack(places, dim=1).view(-1)[: math.prod(shape)].view(shape)
