"""The elastic stage of a run: stitch the family, train all routes at once, score each of them
cheaply.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from sartor.core import Family, Task
from sartor.fit.planner import Scored
from sartor.fit.progress import Progress
from sartor.fit.settings import FitSettings
from sartor.fit.workshop import Workshop
from sartor.stitch import StitchableNetwork, StitchSettings, draw_config, stitch
from sartor.train import History, TrainSettings, train

__all__ = ["RANKING_INPUTS", "score", "stitch_family", "train_stitched"]

#: selection inputs on which every configuration is ranked
RANKING_INPUTS = 512


def stitch_family(family: Family, task: Task, settings: FitSettings) -> StitchableNetwork:
    """Stitch copies of the family and set the stitching layers by least squares."""
    shape = StitchSettings(
        kernel_size=settings.kernel_size, stride=settings.stride, nearest=settings.nearest
    )
    net = stitch(family, task.example, shape)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        batch = task.batch(settings.init_samples)
    net.init_stitches(batch)
    return net


def train_stitched(
    net: StitchableNetwork,
    workshop: Workshop,
    folder: Path,
    progress: Progress,
    deadline: float = math.inf,
) -> History:
    """Train all configurations jointly, one drawn for each step, against labels and the largest
    anchor.
    """
    settings = workshop.settings
    return train(
        net,
        workshop.task.train,
        workshop.distil,
        TrainSettings(
            epochs=settings.epochs,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            precision=settings.precision,
            seed=settings.seed,
        ),
        frozen=(workshop.teacher,),
        on_step=lambda step: net.set_config(draw_config(settings.seed, step, net.num_configs)),
        on_epoch=lambda epoch, loss: progress.advance(f"epoch {epoch}, loss {loss:.3f}"),
        folder=folder,
        deadline=deadline,
    )


@torch.inference_mode()
def score(net: StitchableNetwork, task: Task, progress: Progress) -> list[Scored]:
    """FLOPs, and quality on the first selection data, of every configuration."""
    net.eval()
    batches = _first(task, RANKING_INPUTS)
    scored = []
    for index, config in enumerate(net.configs):
        net.set_config(index)
        quality = float(task.evaluate(net, batches))
        scored.append(
            Scored(index=index, name=config.name, flops=net.flops(index), accuracy=quality)
        )
        progress.advance(config.name)
    return scored


def _first(task: Task, count: int) -> list[Any]:
    """Batches of the selection data, held in memory, until there are ``count`` inputs."""
    batches: list[Any] = []
    seen = 0
    for batch in task.selection:
        batches.append(batch)
        seen += len(batch[0])
        if seen >= count:
            break
    return batches
