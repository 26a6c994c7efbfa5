"""Selective scan in plain PyTorch: the recurrence of Mamba, with no kernel to compile.

Source: Gu, Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, arXiv
    2312.00752, algorithm 2. Arguments are those of ``selective_scan_fn`` in mamba_ssm, so one can
    take the place of the other. Deviations: complex states, the gate ``z`` and the last state are
    left out, and B and C must depend on the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core.errors import DataError, RecipeError, nearest
from sartor.nn.vmrnn.chunked_recurrence import chunked_recurrence
from sartor.nn.vmrnn.linear_recurrence import associative_recurrence, sequential_recurrence

__all__ = ["SCAN_METHODS", "run_recurrence", "selective_scan"]

Recurrence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

#: ways to run the recurrence: one result, different costs
SCAN_METHODS: Mapping[str, Recurrence] = {
    "chunked": chunked_recurrence,
    "associative": associative_recurrence,
    "sequential": sequential_recurrence,
}


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    method: str = "chunked",
) -> Tensor:
    """Run s_t = exp(dt_t A) s_(t-1) + dt_t u_t B_t and return y_t = <s_t, C_t> + D u_t.

    It is computed in float32, or float64 if ``u`` is, also under autocast.

    Args:
        u: inputs (batch, dim, length).
        delta: step sizes dt (batch, dim, length), at least 0 after bias and softplus.
        A: decay rates (dim, state), below 0.
        B: into the state (batch, state, length), or (batch, groups, state, length) where ``groups``
            divides dim and each group of neighbouring channels has its own.
        C: out of the state, of the shape of B.
        D: factors (dim,) of the direct path.
        delta_bias: (dim,), added to ``delta``.
        delta_softplus: whether ``delta`` goes through softplus, after the bias.
        method: ``chunked``, the fast one, which can be differentiated once; ``associative``, which
            traced and exported models use by themselves; ``sequential``, the definition.

    Returns:
        (batch, dim, length), of the type of ``u``.

    Raises:
        DataError: the shapes do not fit one another.
        RecipeError: there is no such method.

    Example:
        >>> u, delta = torch.ones(1, 2, 5), torch.full((1, 2, 5), 0.1)
        >>> A, B = -torch.ones(2, 3), torch.ones(1, 3, 5)
        >>> selective_scan(u, delta, A, B, B).shape
        torch.Size([1, 2, 5])
    """
    groups = _check_shapes(u, delta, A, B, C, D, delta_bias)
    batch, dim, length = u.shape
    kind = torch.float64 if u.dtype == torch.float64 else torch.float32

    def first(part: Tensor) -> Tensor:
        """(batch, ..., length) -> (length, batch, groups, n); as a matrix, which is turned fast."""
        rows = part.to(kind).reshape(-1, length)
        return rows.t().contiguous().unflatten(1, (batch, groups, -1))

    def grouped(part: Tensor) -> Tensor:
        """(dim, ...) -> (groups, width, ...)."""
        return part.to(kind).unflatten(0, (groups, -1))

    inputs, steps = first(u), first(delta)
    if delta_bias is not None:
        steps = steps + grouped(delta_bias)
    if delta_softplus:
        steps = F.softplus(steps)
    rates = grouped(A).transpose(1, 2)  # (groups, state, width)
    outputs = run_recurrence(steps, inputs, rates, first(B), first(C), method=method)
    if D is not None:
        outputs = outputs + grouped(D) * inputs
    turned = outputs.flatten(1).t().contiguous()
    return turned.view(batch, dim, length).to(u.dtype)


def run_recurrence(
    delta: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor, *, method: str = "chunked"
) -> Tensor:
    """Run the bare recurrence on tensors with time first; see
    :mod:`sartor.nn.vmrnn.linear_recurrence`
    for their shapes.

    All are computed in the type of ``u``, without autocast. While a model is traced the chunked
    form, whose loops would be unrolled, gives way to the associative one.

    Raises:
        RecipeError: there is no such method.
    """
    if method not in SCAN_METHODS:
        raise RecipeError(f"There is no scan {method!r}; {nearest(method, SCAN_METHODS)}")
    if method == "chunked" and torch.compiler.is_compiling():
        method = "associative"
    device = u.device.type
    plain = (
        torch.autocast(device, enabled=False)
        if torch.is_autocast_enabled(device)
        else nullcontext()
    )
    with plain:
        return SCAN_METHODS[method](*(part.to(u.dtype) for part in (delta, u, A, B, C)))


def _check_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
) -> int:
    """Return the number of groups."""
    if u.ndim != 3 or 0 in u.shape:
        raise DataError(
            f"A selective scan takes inputs (batch, dim, length) that are not empty, got "
            f"{tuple(u.shape)}."
        )
    batch, dim, length = u.shape
    groups = B.shape[1] if B.ndim == 4 else 1
    state = A.shape[-1]
    if dim % groups:
        raise DataError(
            f"The {dim} channels cannot be cut into the {groups} groups of B; give a number of "
            "groups that divides them."
        )
    inner = (batch, groups, state, length) if B.ndim == 4 else (batch, state, length)
    wanted = {
        "delta": (delta, (batch, dim, length)),
        "A": (A, (dim, state)),
        "B": (B, inner),
        "C": (C, inner),
        "D": (D, (dim,)),
        "delta_bias": (delta_bias, (dim,)),
    }
    for name, (given, shape) in wanted.items():
        if given is not None and tuple(given.shape) != shape:
            raise DataError(
                f"For inputs of shape {tuple(u.shape)} and a state of {state}, {name} must have "
                f"the shape {shape}, got {tuple(given.shape)}."
            )
    return groups
