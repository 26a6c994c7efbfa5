"""Structural pruning inside blocks: whole heads, channels and hidden units go, the features between
blocks stay.

Source: the dependency graph of Fang et al., DepGraph, CVPR 2023, arXiv 2301.12900, through
torch-pruning; units are ranked by group L2 magnitude (their equation 4). Deviation: dimensions that
several blocks share are left alone, so that a pruned model keeps the features it was distilled
with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import NoEffectError, RecipeError
from sartor.core.modes import eval_mode
from sartor.core.move import MoveReport
from sartor.core.packages import require

__all__ = ["PruneConfig", "prune_"]


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Settings of structural pruning.

    Attributes:
        ratio: share of the units of each group that goes, in [0, 1); 0 is the identity.
        round_to: the number of channels and hidden units that stay is a multiple of this, at least
            1.
        heads: whether attention heads are pruned too.
    """

    ratio: float = 0.25
    round_to: int = 8
    heads: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise RecipeError(
                f"The pruning ratio must lie in [0, 1), got {self.ratio}; 0 changes nothing."
            )
        if self.round_to < 1:
            raise RecipeError(f"round_to must be at least 1, got {self.round_to}.")


def prune_(
    model: nn.Module,
    example: Tensor,
    config: PruneConfig,
    *,
    ignore: Callable[[nn.Module, str], bool] | None = None,
) -> MoveReport:
    """Remove the least important units of each group in place.

    A group is a set of layers that must lose the same units; it is pruned if all of them lie in one
    entry of a module list (one block). Attention loses whole heads.

    Args:
        model: float, on any device; its mode and its gradients' setting are left as they were.
        example: inputs (1, ...) on that device.
        config: how much goes.
        ignore: (module, dotted name) -> whether that layer must keep its outputs.

    Returns:
        Parameters before and after, and the groups that were left alone with the reason.

    Raises:
        NoEffectError: no group could be pruned, though ``config.ratio`` asks for it.

    Example:
        >>> report = prune_(model, images[:1], PruneConfig(ratio=0.5))  # doctest: +SKIP
    """
    before = _count(model)
    if config.ratio == 0:
        return MoveReport(before=before, after=before)
    pruning = require("torch_pruning")
    names = {module: name for name, module in model.named_modules()}
    with eval_mode(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = pruning.DependencyGraph().build_dependency(model, example_inputs=example)
        importance = pruning.importance.GroupMagnitudeImportance()
        skipped = []
        for group in list(graph.get_all_groups(root_module_types=[nn.Linear, nn.Conv2d])):
            root = group[0].dep.target.module
            reason = _reason_to_skip(graph, group, names, ignore)
            units = (
                [] if reason else _least_important(root, group, importance, names, model, config)
            )
            if reason or not units:
                skipped.append(f"{names[root]}: {reason or 'too few units'}")
            else:
                graph.get_pruning_group(root, group[0].dep.pruning_fn, units).prune()
                _repair_attention(model, names[root])
    after = _count(model)
    if after["params"] == before["params"]:
        raise NoEffectError(
            f"Pruning {config.ratio:.0%} removed nothing: "
            f"{'; '.join(skipped[:3]) or 'no layers found'}; "
            "raise the ratio, lower round_to or leave pruning out."
        )
    return MoveReport(before=before, after=after, skipped=tuple(skipped))


def _count(model: nn.Module) -> dict[str, float]:
    return {"params": sum(p.numel() for p in model.parameters())}


def _reason_to_skip(
    graph: Any,
    group: Any,
    names: Mapping[nn.Module, str],
    ignore: Callable[[nn.Module, str], bool] | None,
) -> str:
    layers = [(m, names[m]) for m in (d.dep.target.module for d in group) if names.get(m)]
    owner = _common_owner([name for _, name in layers])
    if not any(part.isdigit() for part in owner.split(".")):
        return "its outputs leave the block"
    if not any(_is_consumer(graph, d.dep.handler) for d in group):
        return "its outputs are the model's"
    if any(_is_grouped(module) for module, _ in layers):
        return "its units are grouped"
    if ignore and any(ignore(module, name) for module, name in layers):
        return "ignored"
    return ""


def _is_consumer(graph: Any, cut: Any) -> bool:
    """Whether a cut takes inputs, and inputs alone, from a layer."""
    return graph.is_in_channel_pruning_fn(cut) and not graph.is_out_channel_pruning_fn(cut)


def _is_grouped(module: nn.Module) -> bool:
    """Whether units belong to groups of equal size, which arbitrary cuts would break."""
    if isinstance(module, nn.Conv2d):
        return 1 < module.groups < max(module.in_channels, module.out_channels)
    return isinstance(module, nn.GroupNorm) and module.num_groups > 1


def _common_owner(names: list[str]) -> str:
    """Longest dotted name that all the names begin with, in whole parts and shorter than each."""
    parts = [name.split(".")[:-1] for name in names]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared)


def _least_important(
    root: nn.Module,
    group: Any,
    importance: Callable[[Any], Tensor | None],
    names: Mapping[nn.Module, str],
    model: nn.Module,
    config: PruneConfig,
) -> list[int]:
    """Output units of ``root`` that go; for attention, all the units of the heads that go."""
    scores = importance(group)
    if scores is None:
        return []
    attention = _attention_of(model, names[root])
    if attention is None:
        if _is_attention_part(model, names[root]):
            return []
        keep = round(len(scores) * (1 - config.ratio) / config.round_to) * config.round_to
        gone = len(scores) - max(keep, min(config.round_to, len(scores)))
        return torch.argsort(scores)[: max(gone, 0)].sort().values.tolist()
    if not config.heads:
        return []
    per_head = scores.view(3, attention.num_heads, attention.head_dim).sum(dim=(0, 2))  # (heads,)
    gone = min(round(attention.num_heads * config.ratio), attention.num_heads - 1)
    chosen = torch.zeros(3, attention.num_heads, attention.head_dim, dtype=torch.bool)
    chosen[:, torch.argsort(per_head)[:gone].cpu()] = True
    return chosen.flatten().nonzero().flatten().tolist()


def _attention_of(model: nn.Module, root: str) -> Any:
    """The timm attention whose query-key-value layer has that name, or None; its heads can be
    cut.
    """
    owner = model.get_submodule(root.rpartition(".")[0])
    cuttable = all(hasattr(owner, a) for a in ("qkv", "num_heads", "head_dim", "attn_dim"))
    return owner if cuttable and root.endswith(".qkv") else None


def _is_attention_part(model: nn.Module, root: str) -> bool:
    """Whether the layer feeds an attention whose heads sartor does not know how to cut."""
    return hasattr(model.get_submodule(root.rpartition(".")[0]), "num_heads")


def _repair_attention(model: nn.Module, root: str) -> None:
    """Write the new number of heads where attention reads it."""
    attention = _attention_of(model, root)
    if attention is not None:
        attention.attn_dim = attention.qkv.out_features // 3
        attention.num_heads = attention.attn_dim // attention.head_dim
