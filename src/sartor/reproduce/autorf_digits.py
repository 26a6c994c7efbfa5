"""AutoRF's evidence, second half: cells in the blocks of a small ResNet that reads digits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sartor.core import Task
from sartor.data import digits_task
from sartor.measure import count_params
from sartor.nn.autorf.cell import attention_slots, insert_rf_cells
from sartor.nn.autorf.gates import ChannelGate
from sartor.nn.autorf.resnet import cifar_resnet
from sartor.nn.sources import seeded
from sartor.reproduce.autorf_training import Trained, random_genotype
from sartor.train import ASAM

__all__ = ["CELL", "CELL_BY_ASAM", "GATED", "PLAIN", "RANDOM_CELL", "read_digits"]

PLAIN = "ResNet-8"
GATED = "with channel gates"
CELL = "with cells P1"
CELL_BY_ASAM = "with cells P1, trained by ASAM"
RANDOM_CELL = "control: with random cells"
SIDE, BATCH, LR, RHO = 16, 50, 0.1, 1.0


def read_digits(seed: int, epochs: int) -> dict[str, Trained]:
    """Train every net of one seed from scratch, by the authors' SGD, and read held-out digits."""
    task = digits_task(image_size=(1, SIDE, SIDE), batch_size=BATCH, seed=seed)
    random_cell = random_genotype(seed)
    nets: Mapping[str, Callable[[nn.Module], nn.Module]] = {
        PLAIN: lambda model: model,
        GATED: _gated,
        CELL: lambda model: insert_rf_cells(model, "P1"),
        CELL_BY_ASAM: lambda model: insert_rf_cells(model, "P1"),
        RANDOM_CELL: lambda model: insert_rf_cells(model, random_cell),
    }
    made = {}
    for name, insert in nets.items():
        with seeded(seed):
            model = insert(cifar_resnet(8, num_classes=10, in_chans=1))
            seconds = _train(model, task, epochs, rho=RHO * (name == CELL_BY_ASAM))
        made[name] = Trained(
            accuracy=task.evaluate(model.eval(), task.validation),
            params=count_params(model),
            windows=(),
            seconds=seconds,
        )
    return made


def _gated(model: nn.Module) -> nn.Module:
    block: Any
    for block, channels in attention_slots(model):
        block.se = ChannelGate(channels)
    return model


def _train(model: nn.Module, task: Task, epochs: int, *, rho: float) -> float:
    """Train by SGD, or by ASAM around it where ``rho`` is above 0; seconds of the CPU."""
    sgd = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    asam = ASAM(model, sgd, rho=rho)

    def descend() -> None:
        sgd.step()
        sgd.zero_grad()

    passes = (asam.ascend, asam.descend) if rho else (descend,)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, epochs)
    began = time.process_time()
    model.train()
    for _ in range(epochs):
        for images, labels in task.train:
            for after in passes:
                F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
                after()
        schedule.step()
    return time.process_time() - began
