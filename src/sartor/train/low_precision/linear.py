"""A linear layer whose three products see quantised operands, emulated on any device.

Forward ``y = Q(x) Q(w)^T``; backward ``dx = Q(g) Q(w)`` and ``dw = Q(g)^T Q(x)``. Each operand is
quantised along the dimension that its product sums over, so that ``x`` and ``w`` are quantised
twice, differently. Sums are float32.

Source: Hao et al., 2025, arXiv 2505.01043, and the Microscaling specification. The random Hadamard
    rotation before quantised gradients follows Tseng et al., 2025, arXiv 2502.20586. Deviation:
    rows
of a batch that do not fill a block are filled up with zeros in the weight gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sartor.train.low_precision.quantize import Quantizer

__all__ = ["LinearPrecision", "LowPrecisionLinear", "hadamard_rotate"]

ROTATED = 32


@dataclass(frozen=True, kw_only=True)
class LinearPrecision:
    """What is quantised in a linear layer.

    Attributes:
        activation: of the inputs; ``None`` leaves them.
        weight: likewise.
        gradient: of what comes back, in both backward products; ``None`` leaves these products
            to the operands of the forward one (the straight-through estimator).
        hadamard: rotate both operands of the backward products, in blocks of 32 with random signs,
            before they are quantised.
    """

    activation: Quantizer | None = None
    weight: Quantizer | None = None
    gradient: Quantizer | None = None
    hadamard: bool = False

    @property
    def is_random(self) -> bool:
        """Whether it draws random numbers."""
        parts = (self.activation, self.weight, self.gradient)
        return self.hadamard or any(p is not None and p.rounding == "stochastic" for p in parts)


def hadamard_rotate(values: Tensor, signs: Tensor) -> Tensor:
    """Multiply blocks of the last dimension by an orthogonal Hadamard matrix with random signs.

    The product of two matrices that are rotated alike along what they are summed over is that of
    the matrices.

    Args:
        values: (..., K), K a multiple of the block.
        signs: (block,) of 1 and -1; the block is a power of two.

    Example:
        >>> x = torch.randn(3, 64)
        >>> turned = hadamard_rotate(x, torch.ones(32))
        >>> torch.allclose(turned @ turned.T, x @ x.T, atol=1e-4)
        True
    """
    matrix = torch.ones(1, 1, device=values.device)
    for _ in range(int(math.log2(len(signs)))):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    blocks = values.unflatten(-1, (-1, len(signs))) * signs  # (..., blocks, block)
    return (blocks @ (matrix / math.sqrt(len(signs)))).flatten(-2)


def _product(
    left: Tensor,
    right: Tensor,
    how: tuple[Quantizer | None, Quantizer | None],
    generator: torch.Generator | None,
    rotate: bool = False,
) -> Tensor:
    """``left`` (M, K) times ``right`` (N, K) transposed, each quantised along K."""
    if rotate:
        drawn = torch.randint(2, (ROTATED,), generator=generator, device=left.device)
        left, right = (hadamard_rotate(part, 2.0 * drawn - 1) for part in (left, right))
    first, second = (
        part if quantizer is None else quantizer(part, generator)
        for part, quantizer in zip((left, right), how, strict=True)
    )
    return first @ second.T


def _filled(values: Tensor, multiple: int) -> Tensor:
    return nn.functional.pad(values, (0, -values.shape[-1] % multiple))


def _multiple(how: LinearPrecision) -> int:
    """What the rows of a batch are filled up to in the weight gradient."""
    sizes = [ROTATED] if how.hadamard else []
    for quantizer in (how.activation, how.gradient):
        block = quantizer.block if quantizer else None
        sizes += [block] if isinstance(block, int) else []
        sizes += [block[1]] if isinstance(block, tuple) else []
    return math.lcm(*sizes)


class _Linear(torch.autograd.Function):
    """The three products."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        how: LinearPrecision,
        generator: torch.Generator | None,
    ) -> Tensor:
        x, w = inputs.float(), weight.float()  # (M, K), (N, K)
        qx = x if how.activation is None else how.activation(x, generator)
        qw = w if how.weight is None else how.weight(w, generator)
        ctx.save_for_backward(*((qx, qw) if how.gradient is None else (x, w)))
        ctx.how, ctx.generator = how, generator
        ctx.dtypes = inputs.dtype, weight.dtype
        return qx @ qw.T  # (M, N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        how, g = ctx.how, gradient.float()  # (M, N)
        dx = dw = None
        with torch.autocast(g.device.type, enabled=False):
            if how.gradient is None:
                dx = g @ w if ctx.needs_input_grad[0] else None
                dw = g.T @ x if ctx.needs_input_grad[1] else None
            else:
                if ctx.needs_input_grad[0]:
                    pair = (how.gradient, how.weight)
                    dx = _product(g, w.T, pair, ctx.generator, how.hadamard)
                if ctx.needs_input_grad[1]:
                    left, right = (_filled(part.T, _multiple(how)) for part in (g, x))
                    pair = (how.gradient, how.activation)
                    dw = _product(left, right, pair, ctx.generator, how.hadamard)
        kinds = ctx.dtypes
        return (
            None if dx is None else dx.to(kinds[0]),
            None if dw is None else dw.to(kinds[1]),
            None,
            None,
        )


class LowPrecisionLinear(nn.Linear):
    """``nn.Linear`` with quantised operands; its weights stay as they are.

    Where numbers are drawn at random, the buffer ``draws`` counts the forward passes of training:
    it and ``seed`` decide the numbers, so that a restored state goes on the same.

    Example:
        >>> layer = LowPrecisionLinear.from_linear(
        ...     nn.Linear(64, 32), LinearPrecision(weight=Quantizer(format="int4", block="row"))
        ... )
        >>> layer(torch.ones(2, 64)).shape
        torch.Size([2, 32])
    """

    precision: LinearPrecision
    seed: int

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, precision: LinearPrecision, *, seed: int = 0
    ) -> LowPrecisionLinear:
        """Make a layer that shares the parameters of ``linear``.

        Args:
            linear: left as it is.
            precision: what is quantised.
            seed: of the layer's random numbers; give layers different ones.
        """
        made = cls(
            linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta"
        )
        made.weight, made.bias = linear.weight, linear.bias
        made.precision, made.seed = precision, seed
        if precision.is_random:
            made.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        return made.train(linear.training)

    def set_precision(self, **changes: Any) -> None:
        """Replace entries of ``precision``, such as ``weight``."""
        self.precision = replace(self.precision, **changes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features) in the dtype of autocast or the inputs."""
        device = inputs.device.type
        cast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if cast else inputs.dtype
        with torch.autocast(device, enabled=False):
            rows = inputs.reshape(-1, inputs.shape[-1])  # (M, K)
            made = _Linear.apply(rows, self.weight, self.precision, self._generator(inputs.device))
            if self.bias is not None:
                made = made + self.bias
        return made.to(dtype).reshape(*inputs.shape[:-1], self.out_features)

    def _generator(self, device: torch.device) -> torch.Generator | None:
        if not self.precision.is_random:
            return None
        draws: Tensor = self.draws  # type: ignore[assignment]
        if self.training and torch.is_grad_enabled():
            draws += 1
        return torch.Generator(device).manual_seed((self.seed << 32) + int(draws))
