"""Turn attention layers into convolutions or nothing and thin feed-forward layers, in one search.

Source: He, Cai, Liu, Pan, Zhang, Tao, Zhuang, "Pruning Self-attentions into Convolutional Layers in
Single Path", TPAMI 2024, arXiv 2111.11802. Deviations: the penalty may be on the relative error of
the cost (``lam_rel``), as small nets need; it is raised linearly over the search; the cut
between open and closed hidden units is moved at the end so that the cost meets the target;
statistics of the new BatchNorms are estimated before training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from sartor.compress.spvit_cost import (
    check_transformer,
    cost_bounds,
    prefix_tokens,
    transformer_blocks,
)
from sartor.compress.spvit_search import Architecture, SinglePathSearch
from sartor.core.errors import DataError, NoEffectError, RecipeError
from sartor.core.move import MoveReport
from sartor.measure import count_flops, count_params
from sartor.nn.sources import seeded
from sartor.nn.spvit.unified_attention import UnifiedAttention, UnifiedMlp
from sartor.nn.token_grid import patch_grid

__all__ = [
    "SPViTConfig",
    "compact_",
    "estimate_norms_",
    "prune_attention_",
    "search_",
]

#: that statistics of the new norms are estimated on
_NORM_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class SPViTConfig:
    """Settings of the search.

    Attributes:
        ratio: multiply-adds that shall stay, as a share of the model's, in (0, 1).
        steps: of the search, at least 1; steps times ``arch_lr`` must exceed 1.5 for any gate to
            close.
        lr: learning rate of the weights.
        arch_lr: learning rate of the thresholds.
        lam_rel: weight of the squared relative error of the cost, at least 0.
        alpha: temperature of the softmax over heads, above 0.
        seed: of the gates that are drawn.
    """

    ratio: float = 0.6
    steps: int = 300
    lr: float = 5e-4
    arch_lr: float = 2e-2
    lam_rel: float = 60.0
    alpha: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or self.steps < 1:
            raise RecipeError(
                "SPViT's ratio lies in (0, 1) and its steps are at least 1, got "
                f"{self.ratio} and {self.steps}."
            )
        if not (self.lr > 0 and self.arch_lr > 0 and self.alpha > 0 and self.lam_rel >= 0):
            raise RecipeError(
                "SPViT's lr, arch_lr and alpha are above 0 and its lam_rel at least 0, got "
                f"{self.lr}, {self.arch_lr}, {self.alpha} and {self.lam_rel}."
            )


def compact_(model: nn.Module, architecture: Architecture, *, alpha: float = 0.01) -> nn.Module:
    """Build an architecture from the weights of a model, in place; nothing else is left.

    Args:
        model: a plain vision transformer, a route through several, or the model inside a search.
        architecture: kinds and units of each block.
        alpha: temperature of the softmax over heads, for a plain model.

    Returns:
        The model.

    Raises:
        RecipeError: the architecture is of another depth or width.
        FamilyError: the model is no plain vision transformer.
    """
    blocks = transformer_blocks(model)
    searched = any(isinstance(block.attn, UnifiedAttention) for block in blocks)
    if not searched:
        check_transformer(model)
    widths = [block.mlp.fc1.out_features for block in blocks]
    if len(widths) != len(architecture.kinds) or any(
        max(units, default=0) >= width
        for units, width in zip(architecture.units, widths, strict=True)
    ):
        raise RecipeError(
            f"The architecture has {len(architecture.kinds)} blocks, and the model {len(widths)} "
            f"of {widths} hidden units; take the model that was searched."
        )
    grid, prefix = patch_grid(model), prefix_tokens(model)
    for block, kind, units in zip(blocks, architecture.kinds, architecture.units, strict=True):
        attn, mlp = block.attn, block.mlp
        if not searched:
            attn = UnifiedAttention.from_attention(attn, grid, prefix, alpha=alpha)
            mlp = UnifiedMlp(mlp)
        block.attn = attn.compact(kind).train(block.training)
        block.mlp = mlp.compact(list(units)).train(block.training)
    return model


@torch.no_grad()
def estimate_norms_(model: nn.Module, images: Tensor) -> None:
    """Give every BatchNorm the statistics of these images; one that sees none stays."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None
    model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode


def prune_attention_(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    config: SPViTConfig,
) -> tuple[MoveReport, Architecture]:
    """Search which attention can become a convolution and which hidden units can go, and do it.

    The search trains a copy; the result has the weights that ``model`` had.

    Args:
        model: a trained vision transformer of timm, or a route through several; is changed in
            place.
        batches: inputs and targets; gone through as often as needed, one batch at a time.
        loss: (model, inputs, targets) -> scalar.
        config: of the search.

    Returns:
        Parameters and FLOPs before and after, with each block's choice in ``skipped``; and the
        architecture.

    Raises:
        NoEffectError: no gate closed.
        FamilyError: the model is no plain vision transformer.
        DataError: there is no batch, or none when the data is gone through again.
    """
    check_transformer(model)
    with seeded(config.seed):
        images = _first_images(batches).to(_device(model))
    before = _count(model, images[:1])
    searched = copy.deepcopy(model)
    target = config.ratio * cost_bounds(searched)[1]
    search = SinglePathSearch(searched, target, lam_rel=config.lam_rel, alpha=config.alpha)
    search_(search, batches, loss, config)
    if search.architecture() == _untouched(search):
        raise NoEffectError(
            f"No gate closed in {config.steps} steps at a threshold rate of {config.arch_lr}; "
            "raise one of them, or leave SPViT out."
        )
    architecture = search.meet_target_()
    compact_(model, architecture, alpha=config.alpha)
    estimate_norms_(model, images)
    notes = [
        f"block {i}: {kind}, {len(units)} hidden units"
        for i, (kind, units) in enumerate(zip(architecture.kinds, architecture.units, strict=True))
    ]
    report = MoveReport(before=before, after=_count(model, images[:1]), skipped=tuple(notes))
    return report, architecture


def search_(
    search: SinglePathSearch,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    config: SPViTConfig,
) -> None:
    """Train weights and thresholds together, in place, and end in eval mode.

    Args:
        search: stays on its device, where batches are moved to.
        batches: inputs and targets; gone through as often as needed, one batch at a time.
        loss: (model, inputs, targets) -> scalar.
        config: of the search.

    Raises:
        DataError: there is no batch, or none when the data is gone through again.
    """
    weights = torch.optim.AdamW(search.weight_parameters(), lr=config.lr, weight_decay=0.05)
    gates = torch.optim.AdamW(search.arch_parameters(), lr=config.arch_lr, weight_decay=0.0)
    device = _device(search)
    with seeded(config.seed):
        images = _first_images(batches).to(device)
        search.train()
        for step, (inputs, targets) in enumerate(islice(_endless(batches), config.steps)):
            ramp = (step + 1) / config.steps
            total = loss(search, inputs.to(device), targets.to(device))
            total = total + ramp * search.complexity_loss()
            weights.zero_grad()
            gates.zero_grad()
            total.backward()
            weights.step()
            gates.step()
    estimate_norms_(search, images)
    search.eval()


def _endless(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        found = False
        for inputs, targets in batches:
            found = True
            yield inputs, targets
        if not found:
            raise DataError(
                "SPViT searches while it trains and its data has no batch, or none when it is gone "
                "through again; give a loader or a list of training data."
            )


def _first_images(batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Of a few batches, for statistics."""
    return torch.cat([inputs for inputs, _ in islice(_endless(batches), _NORM_BATCHES)])


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _untouched(search: SinglePathSearch) -> Architecture:
    blocks = search.blocks
    return Architecture(
        kinds=("attention",) * len(blocks),
        units=tuple(tuple(range(block.mlp.thresholds.numel())) for block in blocks),
    )


def _count(model: nn.Module, example: Tensor) -> dict[str, float]:
    return {"params": count_params(model), "flops": count_flops(model, example)}
