"""What the evidence of Bamboo trains and measures: one encoder under two objectives."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Task
from sartor.data import digits_task
from sartor.nn.bamboo.backbone import bamboo
from sartor.nn.bamboo.masked_autoencoder import MaskedAutoencoder
from sartor.nn.bamboo.over_smoothing import Smoothness, over_smoothing_report
from sartor.nn.sources import seeded
from sartor.reproduce.evidence import Row
from sartor.train import TrainSettings, train

__all__ = [
    "DEEP",
    "FULL",
    "QUICK",
    "SURGERY",
    "WIDE",
    "Net",
    "Schedule",
    "Trained",
    "train_all",
    "uniform_attention",
]

SIDE, PATCH, BATCH, NOISE = 32, 8, 32, 0.3
LR, MASK_RATIO = 2e-3, 0.5
#: validation images on which tokens are measured
IMAGES = 256
#: blocks whose attention is made uniform, from the last one on
SURGERY = (0, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Net:
    """Shape of an encoder."""

    name: str
    depth: int
    embed_dim: int
    num_heads: int

    def make(self, seed: int) -> nn.Module:
        """The encoder with random weights; classifies its mean token."""
        with seeded(seed):
            return bamboo(
                depth=self.depth,
                embed_dim=self.embed_dim,
                num_heads=self.num_heads,
                img_size=SIDE,
                patch_size=PATCH,
                in_chans=1,
                num_classes=10,
                global_pool="avg",
            )


#: the card's two at two thirds of their depth and width, of equal depth x width^2
DEEP = Net(name="8 x 32", depth=8, embed_dim=32, num_heads=2)
WIDE = Net(name="2 x 64", depth=2, embed_dim=64, num_heads=4)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Epochs of each training."""

    masked: int
    fine_tuning: int
    longer: int


FULL = Schedule(masked=10, fine_tuning=6, longer=12)
QUICK = Schedule(masked=1, fine_tuning=1, longer=2)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One net after one way of training.

    Attributes:
        net: its shape.
        way: of training.
        layers: of its blocks, on validation images.
        accuracy: on the validation split; NaN for one that was not taught to classify.
        seconds: of processor time; those of fine-tuning include the masked training before.
        surgery: last layer's cosine with uniform attention in 0, 2, 4 and 8 blocks; for the deep
            nets that classify.
    """

    net: Net
    way: str
    layers: Sequence[Smoothness]
    accuracy: float
    seconds: float
    surgery: tuple[float, ...] = ()

    def third(self, measure: str) -> float:
        """Mean of a measure over the last third of the layers."""
        last = self.layers[-(max(1, len(self.layers) // 3)) :]
        return sum(getattr(one, measure) for one in last) / len(last)

    def row(self, seed: int) -> Row:
        """As a line of a table."""
        last = self.layers[-1]
        return {
            "net": self.net.name,
            "training": self.way,
            "seed": seed,
            "cosine": last.cosine,
            "centred cosine": last.centred_cosine,
            "high / low": last.high_over_low,
            "cosine, last third": self.third("cosine"),
            "centred, last third": self.third("centred_cosine"),
            "accuracy": "" if math.isnan(self.accuracy) else self.accuracy,
            "seconds": self.seconds,
        }


def train_all(seed: int, schedule: Schedule) -> Mapping[tuple[str, str], Trained]:
    """Every training of one seed, by net and way."""
    task = digits_task(image_size=(1, SIDE, SIDE), batch_size=BATCH, seed=seed, noise=NOISE)
    images = torch.cat([batch[0] for batch in task.validation])[:IMAGES]
    results: dict[tuple[str, str], Trained] = {}

    def keep(net: Net, way: str, model: nn.Module, seconds: float, classifies: bool = True) -> None:
        results[net.name, way] = Trained(
            net=net,
            way=way,
            layers=over_smoothing_report(model, images),
            accuracy=task.evaluate(model, task.validation) if classifies else math.nan,
            seconds=seconds,
            surgery=_surgery(model, images) if classifies and net == DEEP else (),
        )

    for net in (DEEP, WIDE):
        model = net.make(seed)
        keep(net, "none", model, 0.0, classifies=False)
        seconds = _pretrain(model, task, seed, schedule.masked)
        keep(net, "masked", model, seconds, classifies=False)
        seconds += _classify(model, task, seed, schedule.fine_tuning)
        keep(net, "fine-tuned", model, seconds)
        lengths = {"supervised": schedule.fine_tuning, "supervised, longer": schedule.longer}
        for way, epochs in lengths.items():
            if net == DEEP or epochs == schedule.fine_tuning:
                model = net.make(seed)
                keep(net, way, model, _classify(model, task, seed, epochs))
    return results


def _pretrain(encoder: nn.Module, task: Task, seed: int, epochs: int) -> float:
    """Train to fill in masked patches; seconds of processor time."""
    with seeded(seed):
        model = MaskedAutoencoder(
            encoder, mask_ratio=MASK_RATIO, decoder_dim=32, decoder_depth=1, decoder_heads=2
        )
    settings = TrainSettings(epochs=epochs, lr=LR, warmup_epochs=1, seed=seed)
    began = time.process_time()
    train(model, task.train, lambda m, x, _y: m(x).loss, settings)
    return time.process_time() - began


def _classify(model: nn.Module, task: Task, seed: int, epochs: int) -> float:
    """Train on labels; seconds of processor time."""
    settings = TrainSettings(epochs=epochs, lr=LR, warmup_epochs=1, seed=seed)
    began = time.process_time()
    train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
    return time.process_time() - began


def _surgery(model: nn.Module, images: Tensor) -> tuple[float, ...]:
    found = []
    for count in SURGERY:
        with uniform_attention(model, count):
            found.append(over_smoothing_report(model, images)[-1].cosine)
    return tuple(found)


@contextmanager
def uniform_attention(model: nn.Module, count: int) -> Iterator[None]:
    """Every token attends to all tokens alike in the last ``count`` blocks, inside.

    Queries and keys are zero there, so that the softmax gives 1 / N.
    """
    vit: Any = model
    linears = [block.attn.qkv for block in list(vit.blocks)[len(vit.blocks) - count :]]
    kept = [{name: p.detach().clone() for name, p in one.named_parameters()} for one in linears]
    try:
        with torch.no_grad():
            for one in linears:
                for parameter in one.parameters():
                    parameter[: 2 * one.in_features] = 0
        yield
    finally:
        for one, state in zip(linears, kept, strict=True):
            one.load_state_dict(state)
