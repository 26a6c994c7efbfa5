"""The recurrence of a selective scan in chunks: the fast form, forward and backward.

The length is walked through in segments. A segment is cut into K chunks of c steps, and one step is
taken in all its chunks at a time, so that 2 c + K operations replace the c K of the sequential
form: first each chunk runs from an empty state, which gives what it adds; then the states at the
starts of the chunks follow from one another; then each chunk runs again from its start, and that
pass is the sequential form itself. Only products of decays in [0, 1] are formed and nothing is
divided, so strong decays cannot overflow. The backward pass is the same walk in reverse. It
computes the states again from the starts of the chunks, the only ones that are kept.

K is as large as it takes to give each operation enough numbers to work on, 1 where a single state
has enough, and c such that a segment fits the processor's cache. Shapes and symbols are those of
:mod:`sartor.nn.linear_recurrence`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["chunked_recurrence"]

#: numbers for one operation to work on: with a quarter of them, calling it costs about as much as
#: the work; with four times as many, they leave the cache
STEP = 1 << 14
#: numbers in one segment of states; three such buffers are in work
SEGMENT = 1 << 19


def chunked_recurrence(delta: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Run the recurrence in chunks; arguments and result are those of
    :func:`~sartor.nn.linear_recurrence.sequential_recurrence`.

    It can be differentiated once.

    Example:
        >>> delta, B = torch.full((6, 1, 1, 2), 0.1), torch.ones(6, 1, 1, 3)
        >>> chunked_recurrence(delta, delta, -torch.ones(1, 3, 2), B, B).shape
        torch.Size([6, 1, 1, 2])
    """
    outputs: Tensor = _ChunkedRecurrence.apply(delta, v, A, B, C)
    return outputs


@dataclass(frozen=True)
class _Plan:
    """How a length is cut: segments of chunks of steps, the last filled up with zeros, which are
    steps that keep the state.
    """

    length: int
    segments: int
    chunks: int
    steps: int

    @classmethod
    def of(cls, length: int, state: int) -> _Plan:
        """Cut a length, where a state has so many numbers."""
        enough = state >= STEP // 4
        chunks = 1 if enough else max(1, min(STEP // state, math.isqrt(2 * length)))
        most = chunks * max(1, SEGMENT // (chunks * state))
        segments = -(-length // most)
        return cls(length, segments, chunks, -(-length // (segments * chunks)))

    def cut(self, part: Tensor) -> Tensor:
        """(L, ...) -> (M, c, K, ...): one step of all chunks of a segment is contiguous."""
        missing = self.segments * self.chunks * self.steps - self.length
        if missing:
            part = torch.cat((part, part.new_zeros(missing, *part.shape[1:])))
        part = part.reshape(self.segments, self.chunks, self.steps, *part.shape[1:])
        return part.transpose(1, 2).contiguous()

    def join(self, part: Tensor) -> Tensor:
        """(M, c, K, ...) -> (L, ...)."""
        return part.transpose(1, 2).flatten(0, 2)[: self.length]


class _ChunkedRecurrence(Function):
    @staticmethod
    def forward(ctx: Any, delta: Tensor, v: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        blocks = list(_blocks(v, A))
        plan = _Plan.of(len(v), _numbers(blocks[0], v, A))
        delta, v, B, C = (plan.cut(part) for part in (delta, v, B, C))
        starts = v.new_empty(plan.segments, plan.chunks, *v.shape[3:5], *A.shape[1:])
        outputs = torch.empty_like(v)
        for rows, groups in blocks:
            rates, work = A[groups], _Workspace()
            carry = torch.zeros_like(starts[0, 0, rows, groups])
            for m in range(plan.segments):
                at = (m, ..., rows, groups, slice(None))
                a, x = work.terms(delta[at], v[at], rates, B[at])
                start = _starts(a, x, carry, delta[at], rates)
                _run(a, x, start)
                carry = x[-1, -1].clone()
                starts[m, :, rows, groups] = start
                outputs[at] = torch.matmul(C[at].unsqueeze(-2), x).squeeze(-2)
        ctx.save_for_backward(delta, v, A, B, C, starts)
        ctx.plan, ctx.blocks = plan, blocks
        return plan.join(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        delta, v, A, B, C, starts = ctx.saved_tensors
        plan, grad_A = ctx.plan, torch.zeros_like(A)
        grad = plan.cut(grad)
        grad_delta, grad_v, grad_B, grad_C = (torch.empty_like(p) for p in (delta, v, B, C))
        for rows, groups in ctx.blocks:
            rates, work = A[groups], _Workspace()
            carry = torch.zeros_like(starts[0, 0, rows, groups])
            for m in reversed(range(plan.segments)):
                at = (m, ..., rows, groups, slice(None))
                a, x = work.terms(delta[at], v[at], rates, B[at])
                start = starts[m, :, rows, groups]
                _run(a, x, start)
                g = work.third(x)
                grad_C[at] = torch.mul(x, grad[at].unsqueeze(-2), out=g).sum(dim=-1)
                torch.mul(grad[at].unsqueeze(-2), C[at].unsqueeze(-1), out=g)
                _run_back(a, g, carry, delta[at], rates)
                carry = a[0, 0] * g[0, 0]
                grad_v[at] = torch.matmul(B[at].unsqueeze(-2), g).squeeze(-2)
                a[1:].mul_(x[:-1])  # a_t s_(t-1)
                a[0].mul_(start)
                a.mul_(g)  # the gradient of delta_t A
                grad_B[at] = torch.mul(g, v[at].unsqueeze(-2), out=x).sum(dim=-1)
                grad_delta[at] = torch.mul(a, rates, out=g).sum(dim=-2)
                grad_A[groups] += a.mul_(delta[at].unsqueeze(-2)).sum(dim=(0, 1, 2))
        grad_delta, grad_v, grad_B, grad_C = map(plan.join, (grad_delta, grad_v, grad_B, grad_C))
        return grad_delta, grad_v, grad_A, grad_B, grad_C


class _Workspace:
    """Three buffers (c, K, B, G, N, d) for all segments: memory just used is in the cache."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def terms(self, delta: Tensor, v: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """Decays and inputs of the recurrence."""
        shape = (*B.shape, v.shape[-1])
        a = torch.mul(delta.unsqueeze(-2), A, out=self._buffer("a", shape, v)).exp_()
        x = torch.mul(v.unsqueeze(-2), B.unsqueeze(-1), out=self._buffer("x", shape, v))
        return a, x

    def third(self, like: Tensor) -> Tensor:
        """One more buffer, with anything in it."""
        return self._buffer("g", tuple(like.shape), like)

    def _buffer(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        if name not in self._kept:
            self._kept[name] = like.new_empty(shape)
        return self._kept[name]


def _blocks(v: Tensor, A: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut samples and groups so that a state of a block has at most about 4 :data:`STEP`
    numbers.
    """
    batch, groups = v.shape[1:3]
    one = A[0].numel()  # the state of a group
    together = min(groups, max(1, 4 * STEP // one))
    rows = max(1, 4 * STEP // (one * groups)) if together == groups else 1
    for row in range(0, batch, rows):
        for group in range(0, groups, together):
            yield slice(row, row + rows), slice(group, group + together)


def _numbers(block: tuple[slice, slice], v: Tensor, A: Tensor) -> int:
    """Numbers in a state of a block."""
    lengths = (len(range(size)[part]) for part, size in zip(block, v.shape[1:3], strict=True))
    return max(1, math.prod(lengths) * A[0].numel())


def _starts(a: Tensor, x: Tensor, carry: Tensor, delta: Tensor, A: Tensor) -> Tensor:
    """States before each chunk (K, B, G, N, d)."""
    if a.shape[1] == 1:
        return carry.unsqueeze(0)
    ends = _end(x.unbind(), a[1:].unbind())
    return torch.stack(_carried(_totals(delta, A), ends.unbind(), carry))


def _run(a: Tensor, x: Tensor, start: Tensor) -> None:
    """Turn inputs into states, in place."""
    state = start
    for a_i, x_i in zip(a.unbind(), x.unbind(), strict=True):
        state = x_i.addcmul_(a_i, state)


def _run_back(a: Tensor, g: Tensor, carry: Tensor, delta: Tensor, A: Tensor) -> None:
    """Turn the outputs' share of the states' gradients into all of it, in place, from the last step
    to the first: g_t += a_(t+1) g_(t+1).
    """
    after, grads = a[1:].unbind()[::-1], g.unbind()[::-1]
    if a.shape[1] == 1:
        g[-1].add_(carry)
    else:
        ends = _end(grads, after).mul_(a[0])
        came = _carried(_totals(delta, A)[::-1], ends.unbind()[::-1], carry)
        g[-1].add_(torch.stack(came[::-1]))
    state = grads[0]
    for a_i, g_i in zip(after, grads[1:], strict=True):
        state = g_i.addcmul_(a_i, state)


def _end(terms: Sequence[Tensor], decays: Sequence[Tensor]) -> Tensor:
    """Run all chunks from nothing to their ends (K, B, G, N, d)."""
    end = terms[0].clone()
    for a_i, x_i in zip(decays, terms[1:], strict=True):
        torch.addcmul(x_i, a_i, end, out=end)
    return end


def _totals(delta: Tensor, A: Tensor) -> tuple[Tensor, ...]:
    """Decay over each whole chunk, K of (B, G, N, d)."""
    return (delta.sum(dim=0).unsqueeze(-2) * A).exp_().unbind()


def _carried(totals: Sequence[Tensor], ends: Sequence[Tensor], carry: Tensor) -> list[Tensor]:
    """What comes into each chunk from those before it."""
    carried = [carry]
    for total, end in zip(totals[:-1], ends[:-1], strict=True):
        carried.append(torch.addcmul(end, total, carried[-1]))
    return carried
