"""The recurrence of a selective scan in its two plain forms: step by step, which defines it, and as
an associative scan of logarithmic depth, which exports.

With decays a_t = exp(dt_t A) and inputs x_t = dt_t u_t B_t:

    s_t = a_t * s_(t-1) + x_t,    y_t = sum over n of s_t[n] * C_t[n],    s_(-1) = 0

All forms take the same tensors, time first and channels last, so that every operation runs over
contiguous channels: ``delta`` and ``u`` (L, B, G, d), ``A`` (G, N, d), ``B`` and ``C``
(L, B, G, N). L is the length, G the number of groups of channels that share B and C, d the channels
of a group and N the state of a channel.

Source: Gu, Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, arXiv
    2312.00752, section 3.3; the associative form is that of Blelloch, Prefix sums and their
    applications, 1990, with the steps of Hillis and Steele, 1986. Deviations: none.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["associative_recurrence", "sequential_recurrence"]


def sequential_recurrence(delta: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Run the definition, one step after the other.

    Args:
        delta: step sizes (L, B, G, d).
        u: inputs (L, B, G, d).
        A: decay rates (G, N, d).
        B: into the state (L, B, G, N).
        C: out of the state (L, B, G, N).

    Returns:
        (L, B, G, d).
    """
    state = u.new_zeros(*u.shape[1:3], *A.shape[1:])  # (B, G, N, d)
    outputs = []
    steps = zip(delta.unbind(), u.unbind(), B.unbind(), C.unbind(), strict=True)
    for delta_t, u_t, B_t, C_t in steps:
        decay = torch.exp(delta_t.unsqueeze(-2) * A)
        state = decay * state + (delta_t * u_t).unsqueeze(-2) * B_t.unsqueeze(-1)
        outputs.append((state * C_t.unsqueeze(-1)).sum(dim=-2))  # (B, G, d)
    return torch.stack(outputs)


def associative_recurrence(delta: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Combine pairs (a, x) o (a', x') = (a' a, a' x + x') over distances 1, 2, 4 and so on.

    The graph has a number of operations that is logarithmic in L and no in-place one, so it traces
    and exports; work and memory are L log L. Arguments and result are those of
    :func:`sequential_recurrence`.
    """
    a = torch.exp(delta.unsqueeze(-2) * A)  # (L, B, G, N, d)
    x = (delta * u).unsqueeze(-2) * B.unsqueeze(-1)
    distance = 1
    while distance < len(a):
        late = a[distance:]
        x = torch.cat((x[:distance], late * x[:-distance] + x[distance:]))
        a = torch.cat((a[:distance], late * a[:-distance]))
        distance *= 2
    return (x * C.unsqueeze(-1)).sum(dim=-2)
