"""CAME's evidence, first half: a small language model of characters, trained by every optimiser at
every rate.
"""

from __future__ import annotations

import functools
import importlib
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core.errors import DataError
from sartor.core.packages import require
from sartor.nn.sources import seeded
from sartor.train import CAME
from sartor.train.schedule import warmup_cosine

__all__ = [
    "ADAFACTOR",
    "ADAMW",
    "CAME_",
    "CORRECTED",
    "FULL",
    "PLAIN",
    "QUICK",
    "RATES",
    "Plan",
    "TinyLanguageModel",
    "Trained",
    "optimizer",
    "texts",
    "train_one",
]

ADAMW = "AdamW"
ADAFACTOR = "Adafactor with momentum"
CAME_ = "CAME"
CORRECTED = "CAME, warmup_safe"
PLAIN = "CAME without confidence"
SYMBOLS, CONTEXT, WIDTH, DEPTH, HEADS = 65, 64, 64, 2, 4
BETA2, WARMUP, CLIP = 0.999, 0.1, 1.0
#: the weight of the instability when it is to make no difference: its root scales the rate
FLAT = 1e6
#: fixed before the run; CAME's are a tenth of the others', as the card found
RATES: Mapping[str, tuple[float, ...]] = {
    ADAMW: (3e-3, 1e-2, 2e-2),
    ADAFACTOR: (3e-3, 1e-2, 2e-2),
    CAME_: (3e-4, 1e-3, 2e-3),
    CORRECTED: (3e-3, 1e-2, 2e-2),
    PLAIN: (3e-3, 1e-2, 2e-2),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long each model trains, and on how much text it is judged.

    Attributes:
        steps: of training.
        batch: windows of 64 characters in a step.
        judged: windows of the selection text and of the unseen text.
    """

    steps: int
    batch: int
    judged: int


FULL = Plan(steps=300, batch=16, judged=512)
QUICK = Plan(steps=60, batch=8, judged=64)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One model after its training.

    Attributes:
        selection: loss on the selection text, nats a character; choices read this one.
        unseen: the same on text that nothing else reads.
        state: entries that its optimiser kept, step counters left out.
        seconds: wall time of the training.
    """

    selection: float
    unseen: float
    state: int
    seconds: float


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, N, D / H) each
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TinyLanguageModel(nn.Module):
    """Causal transformer of characters with 108,352 parameters; the head shares the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(_Block(WIDTH, HEADS) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, symbols: Tensor) -> Tensor:
        """Symbols (B, N) -> logits (B, N, 65) of the symbols that follow."""
        x = self.embed(symbols) + self.position.weight[: symbols.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embed.weight)


@functools.cache
def texts() -> tuple[Tensor, Tensor, Tensor]:
    """Symbols of the Python language reference, as Python ships it: its paragraphs in random
    order; 80 % to train on, 10 % to choose on, 10 % unseen. The 64 commonest characters are
    symbols, the others share one.

    Raises:
        DataError: this Python has no help texts.
    """
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ModuleNotFoundError as error:
        raise DataError(
            "This Python comes without the texts of its help; install the package of its "
            "distribution that has pydoc_data, such as libpython3-stdlib."
        ) from error
    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    random.Random(0).shuffle(paragraphs)
    text = "\n\n".join(paragraphs)
    common = [c for c, _ in Counter(text).most_common(SYMBOLS - 1)]
    number = {c: i for i, c in enumerate(common)}
    symbols = torch.tensor([number.get(c, SYMBOLS - 1) for c in text])
    first, second = round(0.8 * len(text)), round(0.9 * len(text))
    return symbols[:first], symbols[first:second], symbols[second:]


def optimizer(name: str, params: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """An optimiser of the comparison; none decays weights."""
    if name == ADAMW:
        return torch.optim.AdamW(params, lr=lr, betas=(0.9, BETA2), weight_decay=0.0)
    if name == ADAFACTOR:
        made: torch.optim.Optimizer = require("transformers").Adafactor(
            params, lr=lr, beta1=0.9, scale_parameter=False, relative_step=False
        )
        return made
    if name == PLAIN:
        # with an instability that is the same everywhere the step is the momentum times the rate
        every = list(params)
        matrices = {"params": [p for p in every if p.ndim > 1], "lr": lr * FLAT**0.5}
        vectors = {"params": [p for p in every if p.ndim < 2]}
        return CAME([matrices, vectors], lr=lr, eps=(1e-30, FLAT), warmup_safe=True)
    return CAME(params, lr=lr, warmup_safe=name == CORRECTED)


def train_one(name: str, lr: float, seed: int, plan: Plan) -> Trained:
    """Train one model; the same seed gives every optimiser the same start and the same windows."""
    text, *held_out = texts()
    with seeded(seed):
        model = TinyLanguageModel()
    made = optimizer(name, model.parameters(), lr)
    rates = [group["lr"] for group in made.param_groups]
    draw = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    for step in range(plan.steps):
        factor = warmup_cosine(step, plan.steps, warmup=round(WARMUP * plan.steps))
        for group, rate in zip(made.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        loss = _loss(model, _windows(text, plan.batch, draw))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        made.step()
        made.zero_grad()
    seconds = time.perf_counter() - started
    selection, unseen = (_judge(model, part, plan) for part in held_out)
    return Trained(selection=selection, unseen=unseen, state=_entries(made), seconds=seconds)


def _windows(text: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Random windows (B, 65): a context and the symbols that follow."""
    starts = torch.randint(len(text) - CONTEXT, (count, 1), generator=draw)
    return text[starts + torch.arange(CONTEXT + 1)]


def _loss(model: nn.Module, windows: Tensor) -> Tensor:
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def _judge(model: nn.Module, text: Tensor, plan: Plan) -> float:
    """Mean loss on the same windows for every model."""
    windows = _windows(text, plan.judged, torch.Generator().manual_seed(0))
    return float(torch.stack([_loss(model, part) for part in windows.split(64)]).mean())


def _entries(made: torch.optim.Optimizer) -> int:
    kept = (value for state in made.state.values() for key, value in state.items() if key != "step")
    return sum(value.numel() for value in kept if isinstance(value, Tensor) and value.ndim)
