"""The recurrence of a selective scan in chunks: the fast form, forward and backward.

The length is walked through in segments. A segment is cut into K chunks of c steps, and one step is
taken in all its chunks at a time, so that 2 c + K operations replace the c K of the sequential
form: first each chunk runs from an empty state, which gives what it adds; then the states at the
starts of the chunks follow from one another; then each chunk runs again from its start, and that
pass is the sequential form itself. Only products of decays in [0, 1] are formed and nothing is
divided, so strong decays cannot overflow. The backward pass is the same walk in reverse. It
computes the states again from the starts of the chunks, the only ones that are kept.

K is as large as it takes to give each operation enough numbers to work on, 1 where a single state
has enough, and c such that a segment fits the processor's cache. All segments are computed in the
same buffers, whose memory is then in the cache and whose steps are cut only once. Decays are powers
of 2, which take a third of the time of powers of e. States are (N, B, G, d) here, so that all
channels of all samples lie in a row; the other shapes and symbols are those of
:mod:`sartor.nn.vmrnn.linear_recurrence`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["chunked_recurrence"]

#: numbers for one operation to work on: with a quarter of them, calling it costs about as much as
#: the work; with four times as many, they leave the cache
STEP = 1 << 14
#: numbers in one segment of states; two such buffers are in work, three in the backward pass
SEGMENT = 1 << 18
LOG2_E = math.log2(math.e)


def chunked_recurrence(delta: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Run the recurrence in chunks; arguments and result are those of
    :func:`~sartor.nn.vmrnn.linear_recurrence.sequential_recurrence`.

    It can be differentiated once.

    Example:
        >>> delta, B = torch.full((6, 1, 1, 2), 0.1), torch.ones(6, 1, 1, 3)
        >>> chunked_recurrence(delta, delta, -torch.ones(1, 3, 2), B, B).shape
        torch.Size([6, 1, 1, 2])
    """
    outputs: Tensor = _ChunkedRecurrence.apply(delta, u, A, B, C)
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
        flat = part.flatten(1).contiguous()  # as a matrix, which is turned fast
        if missing:
            flat = F.pad(flat, (0, 0, 0, missing))
        cut = flat.reshape(self.segments, self.chunks, self.steps, *part.shape[1:])
        return cut.transpose(1, 2).contiguous()

    def join(self, part: Tensor) -> Tensor:
        """(M, c, K, ...) -> (L, ...)."""
        return part.transpose(1, 2).flatten(0, 2)[: self.length]


class _ChunkedRecurrence(Function):
    @staticmethod
    def forward(ctx: Any, delta: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        blocks = list(_blocks(u, A))
        plan = _Plan.of(len(u), _numbers(blocks[0], u, A))
        B, C = (part.movedim(-1, 1) for part in (B, C))  # (L, N, B, G)
        delta, u, B, C = (plan.cut(part) for part in (delta, u, B, C))
        starts = u.new_empty(plan.segments, plan.chunks, *B.shape[3:], u.shape[-1])
        outputs = torch.empty_like(u)
        for rows, groups in blocks:
            wide, narrow = (..., rows, groups, slice(None)), (..., rows, groups)
            rates = LOG2_E * _spread(A[groups], starts[wide])
            a, x = (_Segment(plan.steps, starts[wide]) for _ in range(2))
            carry = torch.zeros_like(starts[wide][0, 0])
            parts = (starts[wide], delta[wide], u[wide], B[narrow], C[narrow], outputs[wide])
            for start, delta_m, u_m, B_m, C_m, y in zip(*parts, strict=True):
                _terms(a, x, delta_m, delta_m * u_m, rates, B_m)
                _starts(a, x, carry, delta_m, rates, out=start)
                _run(a, x, start)
                carry = x.each[-1][-1].clone()
                y.copy_(torch.mul(x.all, C_m.unsqueeze(-1), out=a.all).sum(dim=2))
        ctx.save_for_backward(delta, u, A, B, C, starts)
        ctx.plan, ctx.blocks = plan, blocks
        return plan.join(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        delta, u, A, B, C, starts = ctx.saved_tensors
        plan, grad_A = ctx.plan, torch.zeros_like(A)
        grad = plan.cut(grad)
        grad_delta, grad_u, grad_B, grad_C = (torch.empty_like(p) for p in (delta, u, B, C))
        for rows, groups in ctx.blocks:
            wide, narrow = (..., rows, groups, slice(None)), (..., rows, groups)
            spread = _spread(A[groups], starts[wide])
            rates = LOG2_E * spread
            a, x, g = (_Segment(plan.steps, starts[wide]) for _ in range(3))
            carry = torch.zeros_like(starts[wide][0, 0])
            for m in reversed(range(plan.segments)):
                start, delta_m, u_m, grad_m = (p[m][wide] for p in (starts, delta, u, grad))
                v_m = delta_m * u_m
                B_m, C_m = (p[m][narrow].unsqueeze(-1) for p in (B, C))
                _terms(a, x, delta_m, v_m, rates, B[m][narrow])
                _run(a, x, start)
                grad_C[m][narrow] = torch.mul(x.all, grad_m.unsqueeze(2), out=g.all).sum(dim=-1)
                torch.mul(grad_m.unsqueeze(2), C_m, out=g.all)
                _run_back(a, g, carry, delta_m, rates)
                carry = a.each[0][0] * g.each[0][0]
                a.all[1:].mul_(x.all[:-1])  # a_t s_(t-1)
                a.all[0].mul_(start)
                a.all.mul_(g.all)  # the gradient of delta_t A
                grad_v = torch.mul(g.all, B_m, out=x.all).sum(dim=2)
                grad_u[m][wide] = grad_v * delta_m
                grad_B[m][narrow] = torch.mul(g.all, v_m.unsqueeze(2), out=x.all).sum(dim=-1)
                by_decay = torch.mul(a.all, spread, out=g.all).sum(dim=2)
                grad_delta[m][wide] = by_decay.addcmul_(grad_v, u_m)
                by_rate = a.all.mul_(delta_m.unsqueeze(2)).sum(dim=(0, 1))  # (N, B, G, d)
                grad_A[groups] += by_rate.sum(dim=1).transpose(0, 1)
        grad_delta, grad_u, grad_B, grad_C = map(plan.join, (grad_delta, grad_u, grad_B, grad_C))
        return grad_delta, grad_u, grad_A, grad_B.movedim(1, -1), grad_C.movedim(1, -1)


class _Segment:
    """A buffer (c, K, N, B, G, d) for one segment at a time, whole and step by step.

    Args:
        steps: c.
        starts: (M, K, N, B, G, d), of the same type.
    """

    def __init__(self, steps: int, starts: Tensor) -> None:
        self.all = starts.new_empty(steps, *starts.shape[1:])
        self.each = self.all.unbind()


def _spread(A: Tensor, starts: Tensor) -> Tensor:
    """(G, N, d) -> (N, B, G, d), one row of memory for all samples and groups: operations on rows
    are the faster the longer these are.
    """
    return A.transpose(0, 1).unsqueeze(1).expand(starts.shape[2:]).contiguous()


def _blocks(u: Tensor, A: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut samples and groups so that a state of a block has at most about 4 :data:`STEP`
    numbers.
    """
    batch, groups = u.shape[1:3]
    one = A[0].numel()  # the state of a group
    together = min(groups, max(1, 4 * STEP // one))
    rows = max(1, 4 * STEP // (one * groups)) if together == groups else 1
    for row in range(0, batch, rows):
        for group in range(0, groups, together):
            yield slice(row, row + rows), slice(group, group + together)


def _numbers(block: tuple[slice, slice], u: Tensor, A: Tensor) -> int:
    """Numbers in a state of a block."""
    lengths = (len(range(size)[part]) for part, size in zip(block, u.shape[1:3], strict=True))
    return max(1, math.prod(lengths) * A[0].numel())


def _terms(a: _Segment, x: _Segment, delta: Tensor, v: Tensor, rates: Tensor, B: Tensor) -> None:
    """Write decays and inputs of the recurrence; rates (N, B, G, d) are those of powers of 2."""
    torch.mul(delta.unsqueeze(2), rates, out=a.all).exp2_()
    torch.mul(v.unsqueeze(2), B.unsqueeze(-1), out=x.all)


def _starts(
    a: _Segment, x: _Segment, carry: Tensor, delta: Tensor, rates: Tensor, *, out: Tensor
) -> None:
    """Write the states before each chunk (K, N, B, G, d)."""
    out[0] = carry
    if len(out) > 1:
        ends = _end(x.each, a.each[1:])
        _carry_on(_totals(delta, rates), ends.unbind(), out.unbind())


def _run(a: _Segment, x: _Segment, start: Tensor) -> None:
    """Turn inputs into states, in place."""
    state = start
    for a_i, x_i in zip(a.each, x.each, strict=True):
        state = x_i.addcmul_(a_i, state)


def _run_back(a: _Segment, g: _Segment, carry: Tensor, delta: Tensor, rates: Tensor) -> None:
    """Turn the outputs' share of the states' gradients into all of it, in place, from the last step
    to the first: g_t += a_(t+1) g_(t+1).
    """
    after, grads = a.each[:0:-1], g.each[::-1]
    came = torch.empty_like(grads[0])  # what comes into each chunk from those after it
    came[-1] = carry
    if len(came) > 1:
        ends = _end(grads, after).mul_(a.each[0])
        _carry_on(_totals(delta, rates)[::-1], ends.unbind()[::-1], came.unbind()[::-1])
    state = grads[0].add_(came)
    for a_i, g_i in zip(after, grads[1:], strict=True):
        state = g_i.addcmul_(a_i, state)


def _end(terms: Sequence[Tensor], decays: Sequence[Tensor]) -> Tensor:
    """Run all chunks from nothing to their ends (K, N, B, G, d)."""
    end = terms[0].clone()
    for a_i, x_i in zip(decays, terms[1:], strict=True):
        torch.addcmul(x_i, a_i, end, out=end)
    return end


def _totals(delta: Tensor, rates: Tensor) -> tuple[Tensor, ...]:
    """Decay over each whole chunk, K of (N, B, G, d)."""
    return (delta.sum(dim=0).unsqueeze(1) * rates).exp2_().unbind()


def _carry_on(totals: Sequence[Tensor], ends: Sequence[Tensor], carried: Sequence[Tensor]) -> None:
    """Write what comes into each chunk from those before it; the first has it already."""
    for i in range(1, len(carried)):
        torch.addcmul(ends[i - 1], totals[i - 1], carried[i - 1], out=carried[i])
