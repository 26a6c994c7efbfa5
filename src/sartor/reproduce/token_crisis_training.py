"""What the evidence of token-crisis trains: a causal transformer on characters of Python's own
documentation, the text that every machine with this library has.

The text is that of ``pydoc_data`` and of the docstrings of the standard library, read as source and
never run, cut to printable ASCII, repeated pieces left out, in an order that is shuffled once.
"""

from __future__ import annotations

import ast
import functools
import math
import random
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.nn.sources import seeded
from sartor.train import (
    DropoutSchedule,
    OverfitMonitor,
    OverfitReport,
    balance_loss,
    moe_proxy,
)

__all__ = ["CONTEXT", "FULL", "QUICK", "Corpus", "Plan", "Run", "TinyCausalLM", "corpus", "trained"]

CONTEXT = 64
BATCH, LR, SYMBOLS = 16, 3e-3, 96
#: batches of the fixed validation draw, and the smallest piece of text worth keeping
VALIDATION_BATCHES, SHORTEST = 12, 80
#: share of the text that is held out, and characters that are read at most
HELD_OUT, LONGEST = 0.1, 1_100_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of the experiment.

    Attributes:
        steps: of each training.
        subset: characters that are repeated.
        every: steps between validations.
    """

    steps: int
    subset: int
    every: int


FULL = Plan(steps=800, subset=12_000, every=50)
QUICK = Plan(steps=40, subset=1000, every=10)


@dataclass(frozen=True)
class Corpus:
    """Characters as integers below 96: what trains, and after a gap of one context what is held
    out.
    """

    train: Tensor
    validation: Tensor


@functools.cache
def corpus() -> Corpus:
    """Read the text of this Python; the same for one version of it."""
    pieces = sorted({piece for text in _texts() if len(piece := _printable(text)) >= SHORTEST})
    random.Random(0).shuffle(pieces)
    text = "\n\n".join(pieces)[:LONGEST]
    symbols = torch.tensor([95 if c == "\n" else ord(c) - 32 for c in text])  # (N,)
    cut = int(len(symbols) * (1 - HELD_OUT))
    return Corpus(symbols[: cut - CONTEXT], symbols[cut:])


def _texts() -> Iterator[str]:
    """The docstrings of the standard library, and the long strings of the help pages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in (root / "pydoc_data" / "topics.py", *sorted(root.glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if path.stem == "topics" and isinstance(node, ast.Constant):
                yield from str(node.value).split("\n\n\n")
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                yield ast.get_docstring(node) or ""


def _printable(text: str) -> str:
    return "".join(c for c in text if " " <= c <= "~" or c == "\n")


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, N, C / H)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.proj(mixed.transpose(1, 2).flatten(2)))  # (B, N, C)
        hidden: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return hidden


class TinyCausalLM(nn.Module):
    """A pre-norm transformer of two blocks over characters; input and output share their weights.

    Args:
        width: a multiple of 4, the number of heads.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, width)
        self.position = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        self.drop = nn.Dropout(0.0)
        self.blocks = nn.ModuleList(_Block(width, 4) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, symbols: Tensor) -> Tensor:
        """Map symbols (B, N) to logits (B, N, 96)."""
        x = self.drop(self.embed(symbols) + self.position[: symbols.shape[1]])  # (B, N, C)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embed.weight.T


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training.

    Attributes:
        report: D, G and the best step.
        curve: step -> validation loss, nats a character.
        epochs: passes over its text.
        seconds: CPU time.
    """

    report: OverfitReport
    curve: dict[int, float]
    epochs: float
    seconds: float

    @property
    def last(self) -> float:
        """Last validation loss."""
        return self.report.last_loss

    def near(self, share: float) -> float:
        """Validation loss after that share of the steps, or the first validation after it."""
        return self.curve[min(step for step in self.curve if step >= share * max(self.curve))]


def trained(
    plan: Plan,
    seed: int,
    *,
    unique: bool,
    rate: float = 0.0,
    start: float = 0.0,
    width: int = 64,
    experts: int = 0,
) -> Run:
    """Train on all text or on a piece of it; AdamW, the rate falls linearly to 5 %.

    Args:
        plan: size.
        seed: of weights, batches, masks and of where the repeated piece begins.
        unique: all text, or ``plan.subset`` characters of it.
        rate: of dropout.
        start: share of the steps before it is switched on.
        width: of the model.
        experts: of the proxy that is trained in the model's place; 0 trains the model.
    """
    text, held = corpus().train, corpus().validation
    if not unique:
        begin = seed * 5 * plan.subset
        text = text[begin : begin + plan.subset]
    with seeded(seed):
        model: nn.Module = TinyCausalLM(width)
        model = moe_proxy(model, experts) if experts else model
        schedule = DropoutSchedule(model, total_steps=plan.steps, rate=rate, start=start)
        began = time.process_time()
        curve, monitor = _loop(model, text, held, plan, schedule, seed)
    return Run(
        report=monitor.report(),
        curve=curve,
        epochs=plan.steps * BATCH * CONTEXT / len(text),
        seconds=time.process_time() - began,
    )


def _loop(
    model: nn.Module,
    text: Tensor,
    held: Tensor,
    plan: Plan,
    schedule: Callable[[int], float],
    seed: int,
) -> tuple[dict[int, float], OverfitMonitor]:
    """Every run of a seed sees the places of its text in the same order."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    monitor = OverfitMonitor(window=20)
    curve: dict[int, float] = {}
    for step in range(plan.steps):
        schedule(step)
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 - 0.95 * step / plan.steps)
        loss = _loss(model.train(), *_batch(text, draw))
        monitor.observe(loss.item())
        optimizer.zero_grad()
        (loss + 0.01 * balance_loss(model) if _sparse(model) else loss).backward()
        optimizer.step()
        if (step + 1) % plan.every == 0:
            curve[step + 1] = _validation(model.eval(), held)
            monitor.update(step + 1, curve[step + 1])
    return curve, monitor


def _sparse(model: nn.Module) -> bool:
    return not isinstance(model.blocks[0].mlp, nn.Sequential)  # type: ignore[index,union-attr]


def _batch(text: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    begin = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=draw)
    window = text[begin + torch.arange(CONTEXT + 1)]  # (B, N + 1)
    return window[:, :-1], window[:, 1:]


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


@torch.inference_mode()
def _validation(model: nn.Module, held: Tensor) -> float:
    draw = torch.Generator().manual_seed(1234)
    values = [_loss(model, *_batch(held, draw)).item() for _ in range(VALIDATION_BATCHES)]
    return math.fsum(values) / len(values)
