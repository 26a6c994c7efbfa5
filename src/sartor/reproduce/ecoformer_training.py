"""What EcoFormer's evidence trains: digits, a token a pixel, with four kinds of codes.

As in PVTv2, patches overlap: a token is made of its pixel and the eight around it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Task
from sartor.core.packages import require
from sartor.data import digits_task
from sartor.nn.ecoformer.attention import EcoAttention
from sartor.nn.ecoformer.backbone import fit_hashes_
from sartor.nn.ecoformer.energy import eco_operations, softmax_operations
from sartor.nn.ecoformer.hash_fit import pair_targets
from sartor.nn.ecoformer.hash_function import sign_code
from sartor.nn.sources import seeded
from sartor.train import TrainSettings, train

__all__ = ["Codes", "Outcome", "SharedAttention", "outcome", "per_token"]

DIM, HEADS, DEPTH = 32, 2, 2
LR, TUNE_LR, FIT_IMAGES = 3e-3, 1e-3, 64
FITTED, EVERY, RANDOM, SIGN = (
    "fitted",
    "fitted, every pair",
    "random functions",
    "signs of channels",
)


class SharedAttention(EcoAttention):
    """Softmax attention whose queries are its keys: what is converted."""

    def forward(self, x: Tensor, size: object = None, **_: object) -> Tensor:
        """Tokens (B, N, C) -> (B, N, C)."""
        qk, v = self._heads(self.qk(x)), self._heads(self.v(x))
        mixed = F.scaled_dot_product_attention(qk, qk, v)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class SignHash(nn.Module):
    """The baseline of hashing: signs of the channels, nothing learned."""

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        self.num_bits = num_bits

    def forward(self, z: Tensor) -> Tensor:
        """(B, H, N, d) -> (B, H, N, d) in {-1, +1}."""
        return sign_code(z)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """One kind of codes: affinity against the fitted pairs, mean over layers, and accuracies."""

    error: float
    gap: float
    before: float = float("nan")
    after: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One seed: accuracy of softmax attention, also after as many further epochs, and all codes."""

    softmax: float
    longer: float
    codes: Mapping[str, Codes]


def outcome(seed: int, epochs: int) -> Outcome:
    """Train with shared softmax attention, convert in four ways, train half as long again."""
    task = digits_task(batch_size=64, seed=seed, noise=0.0)
    with seeded(seed):
        softmax = _net()
    _train(softmax, task, seed, epochs, LR)
    longer = copy.deepcopy(softmax)
    _train(longer, task, seed, max(1, epochs // 2), TUNE_LR)
    with seeded(seed):
        images = task.batch(FIT_IMAGES)
    codes = {}
    for kind in (FITTED, EVERY, RANDOM, SIGN):
        net = converted(softmax, images, kind, seed)
        error, gap = _affinity(net, images)
        codes[kind] = Codes(error=error, gap=gap)
        if kind in (FITTED, EVERY, SIGN):
            before = task.evaluate(net, task.validation)
            _train(net, task, seed, max(1, epochs // 2), TUNE_LR)
            after = task.evaluate(net, task.validation)
            codes[kind] = Codes(error=error, gap=gap, before=before, after=after)
    return Outcome(
        softmax=task.evaluate(softmax, task.validation),
        longer=task.evaluate(longer, task.validation),
        codes=codes,
    )


def _net() -> nn.Module:
    net: nn.Module = require("timm.models.vision_transformer").VisionTransformer(
        img_size=8,
        patch_size=1,
        in_chans=1,
        num_classes=10,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=2,
        class_token=False,
        global_pool="avg",
    )
    net.patch_embed.proj = nn.Conv2d(1, DIM, 3, padding=1)  # type: ignore[union-attr]
    for block in net.blocks:  # type: ignore[union-attr]
        block.attn = SharedAttention(DIM, HEADS)  # type: ignore[union-attr]
    return net


def converted(softmax: nn.Module, images: Tensor, kind: str, seed: int) -> nn.Module:
    """A copy with one kind of codes, fitted on these images where it can be."""
    net = copy.deepcopy(softmax)
    with seeded(seed):
        for block in net.blocks:  # type: ignore[union-attr]
            shared = block.attn  # type: ignore[union-attr]
            eco = EcoAttention(DIM, HEADS)
            eco.load_state_dict(shared.state_dict())
            eco.hash = type(eco.hash)(HEADS, DIM // HEADS)
            if kind == SIGN:
                eco.hash = SignHash(DIM // HEADS)  # type: ignore[assignment]
            block.attn = eco  # type: ignore[union-attr]
        if kind != SIGN:
            fit_hashes_(
                net,
                images,
                lr=0.0 if kind == RANDOM else 0.1,
                steps=1 if kind == RANDOM else 100,
                masked=kind != EVERY,
            )
    return net


def _train(net: nn.Module, task: Task, seed: int, epochs: int, lr: float) -> None:
    settings = TrainSettings(epochs=epochs, lr=lr, warmup_epochs=1, seed=seed)
    train(net, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)


@torch.no_grad()
def _affinity(net: nn.Module, images: Tensor) -> tuple[float, float]:
    """Squared error over the pairs that have a target, and agreement of near minus far pairs."""
    found: list[tuple[float, float]] = []

    def keep(layer: EcoAttention, inputs: tuple[Tensor, ...]) -> None:
        z = layer.hash_inputs(inputs[0])
        targets, codes = pair_targets(z, 10), layer.hash(z)
        alike = codes @ codes.transpose(-2, -1) / codes.shape[-1]  # (B, H, N, N)
        error = (alike - targets).square()[targets != 0].mean()
        gap = alike[targets > 0].mean() - alike[targets < 0].mean()
        found.append((float(error), float(gap)))

    blocks = list(net.blocks)  # type: ignore[arg-type]
    hooks = [block.attn.register_forward_pre_hook(keep) for block in blocks]
    net.eval()(images)
    for hook in hooks:
        hook.remove()
    errors, gaps = zip(*found, strict=True)
    return sum(errors) / len(errors), sum(gaps) / len(gaps)


def per_token(tokens: int) -> tuple[float, float]:
    """Multiplications a token of softmax attention and of EcoFormer's, 2 heads of 16 channels."""
    counts = (softmax_operations, eco_operations)
    softmax, eco = (count(tokens, HEADS, DIM // HEADS)[0] / tokens for count in counts)
    return softmax, eco
