"""VMRNN: forecasts the next frames of video, radar or traffic maps with recurrent cells of
selective
scans.

Source: Tang, Dong, Tang, Chu, Liang, VMRNN: Integrating Vision Mamba and LSTM for Efficient and
    Accurate Spatiotemporal Forecasting, CVPR 2024 workshops, arXiv 2403.16536. Deviations: layers
    that the released modules carry without using them are left out (see
    :func:`official_vmrnn_key`); patches of more than 4 pixels take one doubling for each factor
    of two; frames need not be square.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError, RecipeError
from sartor.nn.vmrnn.cell import State, VMRNNCell
from sartor.nn.vmrnn.patch_maps import PatchEmbed, PatchExpanding, PatchInflated, PatchMerging

__all__ = [
    "VMRNN",
    "VMRNNMultiScale",
    "forecast_loss",
    "official_vmrnn_key",
    "roll_out",
    "vmrnn_b_kth",
    "vmrnn_b_taxibj",
    "vmrnn_d_mnist",
]

S = TypeVar("S")


def roll_out(
    step: Callable[[Tensor, S | None], tuple[Tensor, S]], frames: Tensor, horizon: int
) -> Tensor:
    """Feed the given frames one by one, then the model's own outputs.

    Args:
        step: (frame (B, C, H, W), state or ``None``) -> (next frame, new state).
        frames: (B, T, C, H, W), T at least 2.
        horizon: frames to forecast beyond the given ones, at least 1.

    Returns:
        (B, T - 1 + horizon, C, H, W): what the step says of frames 2 to T + horizon.

    Raises:
        DataError: there are fewer than 2 frames, or nothing is to be forecast.
    """
    if frames.ndim != 5 or frames.shape[1] < 2 or horizon < 1:
        raise DataError(
            "A forecast takes frames (B, T, C, H, W) with T of at least 2 and a horizon of at "
            f"least 1, got {tuple(frames.shape)} and {horizon}."
        )
    outputs: list[Tensor] = []
    state: S | None = None
    given = frames.shape[1]
    for t in range(given - 1 + horizon):
        frame = frames[:, t] if t < given else outputs[-1]
        output, state = step(frame, state)
        outputs.append(output)
    return torch.stack(outputs, dim=1)


def forecast_loss(predictions: Tensor, frames: Tensor, kind: str = "mse") -> Tensor:
    """Error of all outputs, those on given frames too, mean over all numbers.

    Args:
        predictions: (B, T - 1, C, H, W), of frames 2 to T.
        frames: (B, T, C, H, W), in [0, 1].
        kind: ``mse``, or ``mse+l1``, as the authors take for Moving MNIST.

    Raises:
        DataError: the shapes do not fit, or frames leave [0, 1], where no output can follow.
        RecipeError: there is no such kind.
    """
    targets = frames[:, 1:]
    if predictions.shape != targets.shape:
        raise DataError(
            f"Predictions of shape {tuple(predictions.shape)} do not belong to frames of shape "
            f"{tuple(frames.shape)}: give one frame less than there are."
        )
    low, high = targets.aminmax()
    if low < 0 or high > 1:
        raise DataError(
            f"Frames to forecast must lie in [0, 1], as the outputs do, got {float(low):g} to "
            f"{float(high):g}; scale them."
        )
    if kind == "mse":
        return F.mse_loss(predictions, targets)
    if kind == "mse+l1":
        return F.mse_loss(predictions, targets) + F.l1_loss(predictions, targets)
    raise RecipeError(f"The loss of a forecast is mse or mse+l1, got {kind!r}.")


class _Forecaster(nn.Module, ABC):
    """What both models share: ``forward`` rolls out ``step``."""

    unit: int
    in_chans: int
    horizon: int

    @abstractmethod
    def step(self, frame: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Take a frame (B, C, H, W), return the next one in (0, 1), and the new state."""

    def forward(self, frames: Tensor, horizon: int | None = None) -> Tensor:
        """Forecast.

        Args:
            frames: (B, T, C, H, W) in [0, 1], T at least 2.
            horizon: frames beyond the given ones; ``None`` for the model's own.

        Returns:
            (B, T - 1 + horizon, C, H, W) in (0, 1): first what the model says of frames 2 to T, on
            which it is trained too, then the forecast, ``[:, -horizon:]``.

        Raises:
            DataError: frames or horizon are not of this kind.
        """
        if frames.ndim == 5 and (
            frames.shape[2] != self.in_chans or any(s % self.unit for s in frames.shape[3:])
        ):
            raise DataError(
                f"The frames have {frames.shape[2]} channels of {frames.shape[3]} x "
                f"{frames.shape[4]} pixels; give {self.in_chans} channels, and height and width "
                f"that are multiples of {self.unit}."
            )
        return roll_out(self.step, frames, self.horizon if horizon is None else horizon)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must spare: rates and direct paths of the scans."""
        spared = ("A_logs", "Ds")
        return {name for name, _ in self.named_parameters() if name.endswith(spared)}


class VMRNN(_Forecaster):
    """VMRNN-B: one cell at one scale.

    Args:
        in_chans: channels C of a frame.
        patch_size: p, a power of two, at least 2.
        embed_dim: channels D of the cell.
        depth: its blocks.
        d_state: of each scan.
        expand: of each SS2D.
        drop_path: rate of stochastic depth, the same for all blocks.
        horizon: frames to forecast unless ``forward`` is told otherwise.

    Example:
        >>> model = VMRNN(1, patch_size=2, embed_dim=8, depth=1, d_state=4, horizon=3)
        >>> model(torch.zeros(2, 4, 1, 8, 8)).shape
        torch.Size([2, 6, 1, 8, 8])
    """

    def __init__(
        self,
        in_chans: int = 1,
        *,
        patch_size: int = 2,
        embed_dim: int = 128,
        depth: int = 6,
        d_state: int = 16,
        expand: float = 2.0,
        drop_path: float = 0.0,
        horizon: int = 10,
    ) -> None:
        super().__init__()
        self.in_chans, self.unit, self.horizon = in_chans, patch_size, horizon
        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_size)
        self.cell = VMRNNCell(embed_dim, depth, d_state=d_state, expand=expand, drop_path=drop_path)
        self.inflate = PatchInflated(embed_dim, in_chans, patch_size)

    def step(self, frame: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Take a frame (B, C, H, W), return the next one in (0, 1), and the new state."""
        hidden, state = self.cell(self.patch_embed(frame), state)
        return torch.sigmoid(self.inflate(hidden)), state


class VMRNNMultiScale(_Forecaster):
    """VMRNN-D: cells at several scales, down and up again, each with a state of its own.

    Args:
        in_chans: channels C of a frame.
        patch_size: p, a power of two, at least 2.
        embed_dim: channels of the finest scale.
        depths_down: blocks of each cell on the way down, from fine to coarse.
        depths_up: of each cell on the way up, from fine to coarse too, so run from the last to the
            first.
        d_state: of each scan.
        expand: of each SS2D.
        drop_path: highest rate of stochastic depth; it rises linearly over each way's blocks.
        horizon: frames to forecast unless ``forward`` is told otherwise.

    Raises:
        FamilyError: the ways have different numbers of scales, or none.

    Example:
        >>> model = VMRNNMultiScale(embed_dim=8, depths_down=(1,), depths_up=(1,), d_state=4)
        >>> model(torch.zeros(2, 4, 1, 8, 8), horizon=1).shape
        torch.Size([2, 4, 1, 8, 8])
    """

    def __init__(
        self,
        in_chans: int = 1,
        *,
        patch_size: int = 2,
        embed_dim: int = 128,
        depths_down: Sequence[int] = (2, 6),
        depths_up: Sequence[int] = (6, 2),
        d_state: int = 16,
        expand: float = 2.0,
        drop_path: float = 0.0,
        horizon: int = 10,
    ) -> None:
        super().__init__()
        scales = len(depths_down)
        if not scales or len(depths_up) != scales:
            raise FamilyError(
                f"A VMRNN takes as many scales up as down, at least one, got {len(depths_up)} up "
                f"and {scales} down."
            )
        self.in_chans, self.unit, self.horizon = in_chans, patch_size * 2**scales, horizon
        widths = [embed_dim * 2**i for i in range(scales + 1)]

        def cells(dims: Sequence[int], depths: Sequence[int]) -> nn.ModuleList:
            rates = _rising(drop_path, depths)
            options = {"d_state": d_state, "expand": expand}
            return nn.ModuleList(
                VMRNNCell(dim, depth, drop_path=rate, **options)
                for dim, depth, rate in zip(dims, depths, rates, strict=True)
            )

        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_size)
        self.down = cells(widths[:-1], depths_down)
        self.merge = nn.ModuleList(PatchMerging(dim) for dim in widths[:-1])
        self.up = cells(widths[1:], depths_up)
        self.expand = nn.ModuleList(PatchExpanding(dim) for dim in widths[1:])
        self.inflate = PatchInflated(embed_dim, in_chans, patch_size)

    def step(self, frame: Tensor, state: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """Take a frame (B, C, H, W), return the next one in (0, 1), and the cells' new states,
        those of the way down first, each way from fine to coarse.
        """
        scales = len(self.down)
        old: Sequence[State | None] = state or [None] * (2 * scales)
        new: list[State] = []
        x = self.patch_embed(frame)
        for i in range(scales):
            x, made = self.down[i](x, old[i])
            x = self.merge[i](x)
            new.append(made)
        for i in reversed(range(scales)):
            x, made = self.up[i](x, old[scales + i])
            x = self.expand[i](x)
            new.insert(scales, made)
        return torch.sigmoid(self.inflate(x)), new


def vmrnn_b_taxibj(**kwargs: Any) -> VMRNN:
    """Make the authors' model for TaxiBJ: 4 frames (2, 32, 32) in, 4 out."""
    sizes = {"in_chans": 2, "patch_size": 4, "depth": 12, "horizon": 4, "drop_path": 0.1}
    return VMRNN(**{**sizes, **kwargs})


def vmrnn_b_kth(**kwargs: Any) -> VMRNN:
    """Make the authors' model for KTH: 10 frames (1, 128, 128) in, 20 out."""
    return VMRNN(**{"depth": 6, "horizon": 20, "drop_path": 0.1, **kwargs})


def vmrnn_d_mnist(**kwargs: Any) -> VMRNNMultiScale:
    """Make the authors' model for Moving MNIST: 10 frames (1, 64, 64) in, 10 out."""
    return VMRNNMultiScale(**{"drop_path": 0.1, **kwargs})


#: name of a module in the released code -> its name here
_OFFICIAL = (
    (r"^ST\.layer\.", "cell."),
    (r"^ST\.patch_inflated\.", "inflate."),
    (r"^(ST|Downsample)\.patch_embed\.", "patch_embed."),
    (r"^Upsample\.Unembed\.", "inflate."),
    (r"^Downsample\.layers\.", "down."),
    (r"^Downsample\.downsample\.", "merge."),
    (r"\bConv_\.", "hidden."),
    (r"\bConv\.", "to_pixels."),
    (r"\bVSBs\.", "blocks."),
    (r"\bln_1\.", "norm."),
    (r"\bself_attention\.", "ss2d."),
    (r"\blinear\.", "mix."),
)


def official_vmrnn_key(key: str, scales: int = 2) -> str | None:
    """Name of a released checkpoint's weight in these models.

    Args:
        key: its name there.
        scales: of the multi-scale model, whose way up is numbered from coarse to fine there.

    Returns:
        Its name here; ``None`` for weights that the released code never uses: the state layers of
        all but a cell's first block, and the second patch embedding.

    Example:
        >>> official_vmrnn_key("ST.layer.VSBs.0.self_attention.Ds")
        'cell.blocks.0.ss2d.Ds'
        >>> official_vmrnn_key("ST.layer.VSBs.1.linear.weight") is None
        True
    """
    if key.startswith("Upsample.patch_embed.") or re.search(r"\bVSBs\.[1-9]\d*\.linear\.", key):
        return None
    way_up = re.match(r"Upsample\.(layers|upsample)\.(\d+)\.", key)
    if way_up:
        place = {"layers": "up", "upsample": "expand"}[way_up[1]]
        key = f"{place}.{scales - 1 - int(way_up[2])}.{key[way_up.end() :]}"
    for pattern, name in _OFFICIAL:
        key = re.sub(pattern, name, key)
    return key


def _rising(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates from 0 to ``rate`` over all blocks, in lists of the cells' depths."""
    ends = [sum(depths[:i]) for i in range(len(depths) + 1)]
    rates = torch.linspace(0, rate, ends[-1]).tolist()
    return [rates[start:end] for start, end in pairwise(ends)]
