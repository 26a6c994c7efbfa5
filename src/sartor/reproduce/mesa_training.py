"""Mesa's evidence, first half: what is stored, how far gradients are off, and trainings with each
kind of storage; only the reported split's accuracy is read, and nothing is chosen by it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Task
from sartor.core.packages import require
from sartor.data import digits_task
from sartor.nn.sources import seeded
from sartor.train import TrainSettings, train
from sartor.train.mesa.context import Mesa, mesa_
from sartor.train.mesa.settings import MesaReport, MesaSettings

__all__ = [
    "ATTENTIONS",
    "EXACT",
    "FULL",
    "MESA",
    "NEAREST",
    "ONE_GROUP",
    "OWN_RANGE",
    "QUICK",
    "TOKEN",
    "TRAINED",
    "TWO_BITS",
    "VARIANTS",
    "Measured",
    "Schedule",
    "Trained",
    "measure",
    "train_variants",
]

EXACT = "exact"
MESA = "Mesa: 8 bits, stochastic, heads, running ranges"
NEAREST = "rounded to nearest"
ONE_GROUP = "one group for each tensor"
OWN_RANGE = "each batch's own range"
TWO_BITS = "control: 2 bits"
#: every one but the first differs from Mesa in one setting
VARIANTS: Mapping[str, MesaSettings] = {
    MESA: MesaSettings(),
    NEAREST: MesaSettings(stochastic=False),
    ONE_GROUP: MesaSettings(groups="tensor"),
    OWN_RANGE: MesaSettings(momentum=None),
    TWO_BITS: MesaSettings(bits=2),
}
#: what is trained; one group is judged by its gradients alone
TRAINED = (EXACT, MESA, NEAREST, OWN_RANGE, TWO_BITS)
ATTENTIONS = ("explicit softmax", "fused")
TOKEN = "start, with a class token"
#: keeps every tensor as it is, so that only the bytes are counted
_COUNT = MesaSettings(min_numel=2**62)
BATCH, LR = 64, 3e-3


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a training takes: epochs of 15 steps."""

    epochs: int


FULL = Schedule(epochs=12)
QUICK = Schedule(epochs=3)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One step of a network, with autograd's own storage and with others.

    Attributes:
        attention: of :data:`ATTENTIONS`.
        moment: ``start`` or ``end`` of an exact training, or :data:`TOKEN`: the start of a network
            with a class token, which timm draws with a deviation of 1e-6.
        report: bytes of Mesa.
        checkpointed: bytes of gradient checkpointing, each block recomputed.
        both: bytes of Mesa with checkpointing.
        differing: outputs that are not equal bit for bit to those without Mesa.
        errors: variant -> norm of the gradient's error by norm of the gradient.
    """

    attention: str
    moment: str
    report: MesaReport
    checkpointed: int
    both: int
    differing: int
    errors: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One trained network.

    Attributes:
        accuracy: on the reported split.
        seconds: of the CPU.
        error: of a gradient after the training, with the running ranges that it left, by the
            gradient's norm.
    """

    accuracy: float
    seconds: float
    error: float


def make(seed: int, attention: str = "fused", *, class_token: bool = False) -> nn.Module:
    """An untrained ViT of width 48, 3 blocks, 3 heads and 16 tokens; weights follow ``seed``."""
    with seeded(seed):
        model: nn.Module = require("timm.models.vision_transformer").VisionTransformer(
            img_size=8,
            patch_size=2,
            in_chans=1,
            num_classes=10,
            embed_dim=48,
            depth=3,
            num_heads=3,
            class_token=class_token,
            global_pool="token" if class_token else "avg",
        )
    for block in model.blocks:
        block.attn.fused_attn = attention == "fused"
    return model


def train_variants(
    seed: int, schedule: Schedule
) -> tuple[Mapping[str, Trained], tuple[Measured, ...]]:
    """Train exactly and with each variant from the same weights, in the same order of the data.

    Returns:
        Variant -> training; single steps at the start and the end of the exact one.
    """
    task = digits_task(batch_size=BATCH, seed=seed)
    trained: dict[str, Trained] = {}
    measured = [measure(make(seed, a), task, attention=a, moment="start") for a in ATTENTIONS]
    beside = make(seed, class_token=True)
    measured.append(measure(beside, task, attention="fused", moment=TOKEN))
    for name in TRAINED:
        model = make(seed)
        mesa = mesa_(model, VARIANTS[name]) if name in VARIANTS else None
        began = time.process_time()
        settings = TrainSettings(epochs=schedule.epochs, lr=LR, seed=seed)
        train(model, task.train, _cross_entropy, settings)
        seconds = time.process_time() - began
        error = _error_left(model, mesa, task) if mesa else 0.0
        if not mesa:
            measured += _at_the_end(model, seed, task)
        accuracy = _accuracy(model, task)
        trained[name] = Trained(accuracy=accuracy, seconds=seconds, error=error)
    return trained, tuple(measured)


def _error_left(model: nn.Module, mesa: Mesa, task: Task) -> float:
    """Relative error of one gradient with the ranges of ``mesa``, which is then removed."""
    batch = _first_batch(model, task)
    gradient = _gradient(model, *batch)[1]
    mesa.remove()
    wanted = _gradient(model, *batch)[1]
    return float((gradient - wanted).norm() / wanted.norm())


def _at_the_end(model: nn.Module, seed: int, task: Task) -> list[Measured]:
    found = []
    for attention in ATTENTIONS:
        copy = make(seed, attention)
        copy.load_state_dict(model.state_dict())
        found.append(measure(copy, task, attention=attention, moment="end"))
    return found


def measure(model: nn.Module, task: Task, *, attention: str, moment: str) -> Measured:
    """Take one step on the first training batch in every way.

    The running ranges start with this batch, so that the errors are those of rounding alone.
    """
    inputs, targets = _first_batch(model, task)
    outputs, wanted, counted = _step(model, inputs, targets, _COUNT)
    ours, _, report = _step(model, inputs, targets, VARIANTS[MESA])
    model.set_grad_checkpointing(True)
    checkpointed = _step(model, inputs, targets, _COUNT)[2].exact_bytes
    both = _step(model, inputs, targets, VARIANTS[MESA])[2].stored_bytes
    model.set_grad_checkpointing(False)
    assert counted.exact_bytes == report.exact_bytes
    errors = {}
    for name, settings in VARIANTS.items():
        gradient = _step(model, inputs, targets, settings)[1]
        errors[name] = float((gradient - wanted).norm() / wanted.norm())
    return Measured(
        attention=attention,
        moment=moment,
        report=report,
        checkpointed=checkpointed,
        both=both,
        differing=int((ours != outputs).sum()),
        errors=errors,
    )


def _first_batch(model: nn.Module, task: Task) -> tuple[Tensor, Tensor]:
    """The same training batch each time, for a model that is put into training mode."""
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        inputs, targets = next(iter(task.train))
    return inputs, targets


def _step(
    model: nn.Module, inputs: Tensor, targets: Tensor, settings: MesaSettings
) -> tuple[Tensor, Tensor, MesaReport]:
    """Outputs, all gradients as one vector, and bytes."""
    mesa = Mesa(model, settings)
    with mesa:
        outputs, gradient = _gradient(model, inputs, targets)
    return outputs, gradient, mesa.report()


def _gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    outputs = model(inputs)
    loss = F.cross_entropy(outputs, targets)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return outputs.detach(), torch.cat([g.flatten() for g in gradients])


def _cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), targets)


@torch.inference_mode()
def _accuracy(model: nn.Module, task: Task) -> float:
    return float(task.evaluate(model.eval(), task.validation))
