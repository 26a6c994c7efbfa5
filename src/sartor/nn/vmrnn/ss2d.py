"""SS2D: a selective scan over maps, along four ways through their pixels.

Source: Liu et al., VMamba: Visual State Space Model, 2024, arXiv 2401.10166, in the form that VMRNN
    uses (see :mod:`sartor.nn.vmrnn.forecaster`). Deviations: none; names of parameters are the
    authors'.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.nn.vmrnn.scan import run_recurrence

__all__ = ["SS2D", "cross_merge", "cross_scan"]

#: ways through a map: by rows, by columns, and both from the end
WAYS = 4


def cross_scan(x: Tensor) -> Tensor:
    """Read a map along four ways: by rows, by columns, by rows and by columns from the end.

    Args:
        x: (B, H, W, C).

    Returns:
        (H * W, B, 4, C).

    Example:
        >>> cross_scan(torch.arange(6.0).view(1, 2, 3, 1))[:, 0, :, 0].T.int().tolist()
        [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]
    """
    rows, columns = x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)  # (B, L, C)
    ways = torch.stack((rows, columns), dim=2).transpose(0, 1)  # (L, B, 2, C)
    return torch.cat((ways, ways.flip(0)), dim=2)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Bring four ways back into one map and add them up: what :func:`cross_scan` took apart comes
    out four-fold.

    Args:
        y: (H * W, B, 4, C).
        height: H of the map.
        width: W of the map.

    Returns:
        (B, H, W, C).
    """
    ways = y[:, :, :2] + y[:, :, 2:].flip(0)  # (L, B, 2, C)
    rows, columns = ways.transpose(0, 1).unbind(2)  # (B, L, C)
    turned = columns.unflatten(1, (width, height)).transpose(1, 2)
    return rows.unflatten(1, (height, width)) + turned


class SS2D(nn.Module):
    """Mixes a map globally at a cost that is linear in its pixels: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        d_state: numbers N that a channel remembers.
        expand: inner channels over channels; their product is rounded down.
        dt_rank: rank r of the map to step sizes; ``None`` for C / 16, rounded up.
        d_conv: height and width of the depthwise convolution, odd.
        scan: method of :func:`~sartor.nn.vmrnn.scan.selective_scan`.

    Raises:
        FamilyError: a number is out of range.

    Example:
        >>> sum(p.numel() for p in SS2D(128).parameters())
        168960
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        expand: float = 2.0,
        dt_rank: int | None = None,
        d_conv: int = 3,
        scan: str = "chunked",
    ) -> None:
        super().__init__()
        inner = int(expand * dim)
        self.dt_rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        if min(dim, d_state, inner, self.dt_rank, d_conv) < 1 or d_conv % 2 == 0:
            raise FamilyError(
                "An SS2D takes dim, d_state, dt_rank and expand * dim of at least 1 and an odd "
                f"d_conv, got {dim}, {d_state}, {self.dt_rank}, {inner} and {d_conv}."
            )
        self.dim, self.d_state, self.scan = dim, d_state, scan
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, d_conv, padding=d_conv // 2, groups=inner)
        outputs = self.dt_rank + 2 * d_state
        self.x_proj_weight = nn.Parameter(torch.empty(WAYS, outputs, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(WAYS, inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(WAYS, inner))
        self.A_logs = nn.Parameter(torch.empty(WAYS * inner, d_state))
        self.Ds = nn.Parameter(torch.empty(WAYS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.reset_scan()

    @torch.no_grad()
    def reset_scan(self, dt_min: float = 0.001, dt_max: float = 0.1, floor: float = 1e-4) -> None:
        """Set the parameters of the scan: rates -1 to -N, step sizes log-uniform in [dt_min,
        dt_max] and at least ``floor``.
        """
        nn.init.uniform_(self.x_proj_weight, *_within(self.x_proj_weight.shape[-1]))
        nn.init.uniform_(self.dt_projs_weight, *_within(self.dt_rank))
        low, high = math.log(dt_min), math.log(dt_max)
        steps = torch.empty_like(self.dt_projs_bias).uniform_(low, high).exp().clamp(min=floor)
        self.dt_projs_bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus undone
        self.A_logs.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_logs))
        self.Ds.fill_(1.0)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must spare."""
        return {"A_logs", "Ds"}

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1:3]
        x, gate = self.in_proj(x).chunk(2, dim=-1)  # (B, H, W, E) each
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        y = cross_merge(self.scan_ways(cross_scan(x)), height, width)
        outputs: Tensor = self.out_proj(self.out_norm(y).to(gate.dtype) * F.silu(gate))
        return outputs

    def scan_ways(self, u: Tensor) -> Tensor:
        """Run the scan of each way: (L, B, 4, E) -> (L, B, 4, E), at least in float32."""
        widths = (self.dt_rank, self.d_state, self.d_state)
        rank, B, C = torch.einsum("lbke,kce->lbkc", u, self.x_proj_weight).split(widths, dim=-1)
        kind = torch.promote_types(u.dtype, torch.float32)
        steps = torch.einsum("lbkr,ker->lbke", rank, self.dt_projs_weight).to(kind)
        delta, u = F.softplus(steps + self.dt_projs_bias.to(kind)), u.to(kind)
        rates = -torch.exp(self.A_logs.to(kind)).unflatten(0, (WAYS, -1)).transpose(1, 2)
        y = run_recurrence(delta, u, rates, B, C, method=self.scan)
        return y + self.Ds.to(kind).unflatten(0, (WAYS, -1)) * u


def _within(fan_in: int) -> tuple[float, float]:
    """Range in which :class:`torch.nn.Linear` draws its weights."""
    return -(fan_in**-0.5), fan_in**-0.5
