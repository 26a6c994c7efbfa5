"""VMRNN's evidence, first half: a bump that moves over a small torus, the forecasters that learn
it, and the forecasts that need no learning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.data import bump_sprite, moving_frames
from sartor.measure import count_params
from sartor.nn.sources import seeded
from sartor.nn.vmrnn.forecaster import VMRNN, forecast_loss, roll_out
from sartor.train import TrainSettings, train

__all__ = [
    "CONVLSTM",
    "COPY",
    "FULL",
    "MEAN",
    "OURS",
    "QUICK",
    "SHORT",
    "ZERO",
    "ConvLSTM",
    "Forecast",
    "Frames",
    "Schedule",
    "draw_frames",
    "forecast_all",
    "frame_error",
]

GIVEN, AHEAD, SIZE = 4, 4, 8
LR, CLIP = 4e-3, 5.0

ZERO = "black frames"
MEAN = "mean training frame"
COPY = "last given frame"
CONVLSTM = "ConvLSTM, the CPU seconds of VMRNN"
SHORT = "ConvLSTM, the epochs of VMRNN"
OURS = "VMRNN"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Sequences to train on, epochs of VMRNN, sequences a step."""

    sequences: int
    epochs: int
    batch: int


FULL = Schedule(sequences=900, epochs=6, batch=8)
#: a smoke test whose numbers mean little
QUICK = Schedule(sequences=100, epochs=1, batch=16)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Sequences (N, 8, 1, 8, 8): to train on, to choose on, to report on."""

    train: Tensor
    selection: Tensor
    test: Tensor


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Squared errors of a frame, summed over its pixels, mean over the 4 frames ahead."""

    selection: float
    test: float
    params: int = 0
    epochs: int = 0
    seconds: float = 0.0


class ConvLSTM(nn.Module):
    """The baseline: patches of 2 pixels, one recurrent layer of 3 x 3 convolutions with four gates,
    patches back to pixels. Source: Shi et al., Convolutional LSTM Network, NeurIPS 2015, arXiv
    1506.04214, without peepholes.

    Args:
        width: channels of its state.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, stride=2)
        self.gates = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.to_pixels = nn.ConvTranspose2d(width, 1, 3, stride=2, padding=1, output_padding=1)

    def step(
        self, frame: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Take a frame, return the next one and the new state."""
        x = self.embed(frame)
        hidden, cell = state if state is not None else (torch.zeros_like(x),) * 2
        into, keep, out, new = self.gates(torch.cat((x, hidden), dim=1)).chunk(4, dim=1)
        cell = keep.sigmoid() * cell + into.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
        return self.to_pixels(hidden).sigmoid(), (hidden, cell)

    def forward(self, frames: Tensor) -> Tensor:
        """Given frames (B, T, 1, H, W) -> what it says of frames 2 to T + 4."""
        return roll_out(self.step, frames, AHEAD)


def vmrnn() -> VMRNN:
    """The card's small net, 17,313 parameters."""
    sizes = {"patch_size": 2, "embed_dim": 32, "depth": 2, "d_state": 8, "expand": 1}
    return VMRNN(1, horizon=AHEAD, **sizes)


def draw_frames(seed: int, schedule: Schedule) -> Frames:
    """Draw all sequences of a seed, one split after the other."""
    generator = torch.Generator().manual_seed(seed)
    counts = {"train": schedule.sequences, "selection": 200, "test": 200}
    return Frames(
        **{
            split: moving_frames(bump_sprite(), n, GIVEN + AHEAD, SIZE, generator=generator)
            for split, n in counts.items()
        }
    )


def frame_error(predictions: Tensor, frames: Tensor) -> float:
    """Squared error of a frame, summed over its pixels, mean over frames and sequences.

    Args:
        predictions: (N or 1, T or 1, 1, H, W).
        frames: (N, T, 1, H, W).
    """
    return float((predictions - frames).square().sum(dim=(2, 3, 4)).mean())


def forecast_all(seed: int, schedule: Schedule) -> dict[str, Forecast]:
    """Make every forecast of the comparison on the sequences of one seed."""
    frames = draw_frames(seed, schedule)
    mean = frames.train.mean(dim=(0, 1), keepdim=True)
    simple: Mapping[str, Callable[[Tensor], Tensor]] = {
        ZERO: lambda given: torch.zeros(1),
        MEAN: lambda given: mean,
        COPY: lambda given: given[:, -1:],
    }
    made = {name: _scored(predict, frames) for name, predict in simple.items()}
    ours = _learned(vmrnn, schedule.epochs, frames, schedule.batch, seed)
    short = _learned(ConvLSTM, schedule.epochs, frames, schedule.batch, seed)
    as_long = max(1, round(schedule.epochs * ours.seconds / short.seconds))
    equal = _learned(ConvLSTM, as_long, frames, schedule.batch, seed)
    return {**made, SHORT: short, CONVLSTM: equal, OURS: ours}


def _learned(
    make: Callable[[], nn.Module], epochs: int, frames: Frames, batch: int, seed: int
) -> Forecast:
    with seeded(seed):
        model = make()

    def loss(model: nn.Module, sequences: Tensor) -> Tensor:
        return forecast_loss(model(sequences[:, :GIVEN]), sequences)

    def clip(step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)

    loader = DataLoader(TensorDataset(frames.train), batch_size=batch, shuffle=True)
    settings = TrainSettings(epochs=epochs, lr=LR, weight_decay=0.0, seed=seed)
    began = time.process_time()
    train(model, loader, loss, settings, on_backward=clip)
    seconds = time.process_time() - began
    return _scored(
        lambda given: model(given)[:, -AHEAD:],
        frames,
        params=count_params(model),
        epochs=epochs,
        seconds=seconds,
    )


@torch.no_grad()
def _scored(
    predict: Callable[[Tensor], Tensor],
    frames: Frames,
    *,
    params: int = 0,
    epochs: int = 0,
    seconds: float = 0.0,
) -> Forecast:
    selection, test = (
        frame_error(predict(split[:, :GIVEN]), split[:, GIVEN:])
        for split in (frames.selection, frames.test)
    )
    return Forecast(selection=selection, test=test, params=params, epochs=epochs, seconds=seconds)
