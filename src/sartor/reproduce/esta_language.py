"""ESTA's evidence, second half: two tiny Llamas, a generated language, and what is folded for
``generate``.

The language is a random chain: the next symbol follows the last two. It shows that adaptation,
choice and folding work on language models; nothing about the quality of real ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.core.packages import require
from sartor.nn.sources import seeded
from sartor.stitch import AdaptedNetwork, EstaSettings, ImportanceSampler, adapt_stitchable
from sartor.stitch.llama import LLAMA_TARGETS, stitch_llamas
from sartor.stitch.llama_route import to_transformers
from sartor.train import TrainSettings, train

__all__ = ["Spoken", "speak"]

SYMBOLS, LENGTH, TEXTS, TESTED = 12, 32, 512, 128
#: share of pairs of symbols that are followed differently in the language that is adapted to
CHANGED = 0.5
#: width, depth and heads of the two models; heads are 8 wide
MODELS = {"small": (24, 2, 3), "large": (48, 4, 6)}
SETTINGS = EstaSettings(rank=4, target_modules=LLAMA_TARGETS, train_head=False)
PROMPT, NEW_TOKENS, BATCH = 8, 16, 64


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What adapting two language models gave.

    Attributes:
        names: of the configurations that were kept.
        before: loss of each of them on unseen text before adaptation, nats a token.
        after: the same after it.
        share: of the network's values that were trained.
        difference: largest gap between the logits of the network and of what was folded, with and
            without cache.
        equal: share of greedily generated tokens that agree.
    """

    names: Sequence[str]
    before: Sequence[float]
    after: Sequence[float]
    share: float
    difference: float
    equal: float

    @property
    def gain(self) -> float:
        """Mean fall of the loss."""
        return statistics.mean(self.before) - statistics.mean(self.after)


def speak(seed: int, *, pretraining: int, adaptation: int) -> Spoken:
    """Pretrain on one language, adapt to another, keep the important routes and fold them.

    Args:
        seed: of languages, weights and order.
        pretraining: epochs of each model, of 8 steps.
        adaptation: epochs of the network, of 8 steps.
    """
    first, second = _language(seed, 0.0), _language(seed, CHANGED)
    models = {name: _pretrained(shape, first, seed, pretraining) for name, shape in MODELS.items()}
    texts, tested = _texts(second, TEXTS, seed + 1), _texts(second, TESTED, seed + 2)
    with seeded(seed):
        net = stitch_llamas(models, texts[:1])
        net.init_stitches(texts[:64])
        net = adapt_stitchable(net, SETTINGS)
    before = _losses(net, tested)
    _adapt(net, texts, seed, adaptation)
    after, kept = _losses(net, tested), net.select()
    gaps = [_folded(net, index, tested[:8]) for index in kept]
    return Spoken(
        names=[net.configs[index].name for index in kept],
        before=[before[index] for index in kept],
        after=[after[index] for index in kept],
        share=net.trainable_params / sum(p.numel() for p in net.parameters()),
        difference=max(gap for gap, _ in gaps),
        equal=statistics.mean(equal for _, equal in gaps),
    )


def _language(seed: int, changed: float) -> Tensor:
    """Probability of the next symbol given two (S, S, S); some pairs have other followers."""
    generator = torch.Generator().manual_seed(seed)
    shape = (SYMBOLS, SYMBOLS, SYMBOLS)
    tables = [torch.randn(shape, generator=generator) for _ in range(2)]
    other = torch.rand(shape[:2], generator=generator) < changed
    return torch.softmax(2.5 * torch.where(other[..., None], tables[1], tables[0]), -1)


def _texts(language: Tensor, count: int, seed: int) -> Tensor:
    """Texts (count, LENGTH) of tokens from 0."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(SYMBOLS, (count, 2), generator=generator)
    while text.shape[1] < LENGTH:
        following = language[text[:, -2], text[:, -1]]  # (count, S)
        text = torch.cat([text, torch.multinomial(following, 1, generator=generator)], dim=1)
    return text


def _pretrained(shape: tuple[int, int, int], language: Tensor, seed: int, epochs: int) -> nn.Module:
    llama, (width, depth, heads) = require("transformers"), shape
    config = llama.LlamaConfig(
        vocab_size=SYMBOLS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        max_position_embeddings=2 * LENGTH,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with seeded(seed):
        model: nn.Module = llama.LlamaForCausalLM(config)
    settings = TrainSettings(epochs=epochs, lr=3e-3, warmup_epochs=1, seed=seed)
    batches = _batches(_texts(language, TEXTS, seed))
    train(model, batches, lambda m, x, y: _loss(m(x, use_cache=False).logits, y), settings)
    return model


def _adapt(net: AdaptedNetwork, texts: Tensor, seed: int, epochs: int) -> None:
    flops = [net.flops(index) for index in range(net.num_configs)]
    sampler = ImportanceSampler(net.importance, flops, seed=seed)
    train(
        net,
        _batches(texts),
        lambda m, x, y: _loss(m(x), y),
        TrainSettings(epochs=epochs, lr=1e-2, warmup_epochs=1, seed=seed),
        on_step=lambda step: net.set_config(sampler.draw(step)),
        on_backward=lambda _: net.score_step(),
    )


def _batches(texts: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(texts, texts), batch_size=BATCH, shuffle=True)


def _loss(logits: Tensor, texts: Tensor) -> Tensor:
    """Cross entropy of the next token: logits (B, T, S), texts (B, T) -> ()."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), texts[:, 1:].flatten())


@torch.no_grad()
def _losses(net: AdaptedNetwork, texts: Tensor) -> list[float]:
    net.eval()
    seen = []
    for index in range(net.num_configs):
        net.set_config(index)
        seen.append(float(_loss(net(texts), texts)))
    return seen


@torch.no_grad()
def _folded(net: AdaptedNetwork, index: int, texts: Tensor) -> tuple[float, float]:
    """Largest gap of logits between network and folded model, and share of equal greedy tokens."""
    net.set_config(index)
    wanted = net(texts)
    model = to_transformers(net, index)
    cached = model(texts[:, :PROMPT], use_cache=True)
    behind = model(texts[:, PROMPT:], past_key_values=cached.past_key_values).logits
    whole = model(texts, use_cache=False).logits
    gaps = [(whole - wanted).abs().max(), (behind - wanted[:, PROMPT:]).abs().max()]
    said = texts[:, :PROMPT]
    for _ in range(NEW_TOKENS):
        said = torch.cat([said, net(said)[:, -1].argmax(-1, keepdim=True)], dim=1)
    prompt = texts[:, :PROMPT]
    made = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    equal = float((made[:, PROMPT:] == said[:, PROMPT:]).float().mean())
    return max(float(gap) for gap in gaps) if all(map(math.isfinite, gaps)) else math.inf, equal
