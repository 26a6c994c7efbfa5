"""The elastic stage of a run: train all configurations at once, score each of them cheaply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from sartor.core import Elastic, Engine, Task
from sartor.fit.planner import Scored
from sartor.fit.progress import Progress
from sartor.fit.ranking import ranking_batches
from sartor.fit.saving import saving_recipe, training_record
from sartor.fit.workshop import Workshop
from sartor.train import History, TrainSettings, train

__all__ = ["score", "train_elastic"]


def train_elastic(
    net: Elastic,
    engine: Engine,
    workshop: Workshop,
    folder: Path,
    progress: Progress,
    deadline: float = math.inf,
) -> History:
    """Train all configurations jointly, as the engine says, against labels and the largest
    anchor.
    """
    settings, batches = workshop.settings, workshop.teaching.batches()
    history = train(
        net,
        batches,
        workshop.teaching.loss,
        TrainSettings(
            epochs=settings.epochs,
            lr=settings.lr or engine.lr,
            weight_decay=settings.weight_decay,
            precision=settings.precision,
            seed=settings.seed,
        ),
        recipe=saving_recipe(settings.save, net),
        frozen=(workshop.teaching.teacher,),
        on_step=lambda step: engine.prepare_step(net, step),
        on_backward=lambda step: engine.after_backward(net, step),
        on_epoch=lambda epoch, loss: progress.advance(f"epoch {epoch}, loss {loss:.3f}"),
        folder=folder,
        deadline=deadline,
    )
    workshop.state.trainings["elastic"] = training_record(history, batches)
    return history


@torch.inference_mode()
def score(
    net: Elastic, task: Task, progress: Progress, among: Sequence[int] | None = None
) -> list[Scored]:
    """FLOPs, and quality on the first selection data, of every configuration or of some."""
    net.eval()
    batches = ranking_batches(task)
    scored = []
    for index in range(len(net.configs)) if among is None else among:
        name = net.configs[index].name
        net.set_config(index)
        quality = float(task.evaluate(net, batches))
        scored.append(Scored(index=index, name=name, flops=net.flops(index), accuracy=quality))
        progress.advance(name)
    return scored
