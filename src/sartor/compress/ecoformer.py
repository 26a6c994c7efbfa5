"""Swap the attention of a trained transformer for EcoFormer's binary attention.

Source: Liu, Pan, He, Cai, Zhuang, "EcoFormer: Energy-Saving Attention with Linear Complexity",
NeurIPS 2022, arXiv 2209.09004. The shared projection of queries and keys starts as that of the
queries, or as the mean of both; the rest of the weights stays. Hash functions are fitted on a
batch; short training must follow. Deviation: the paper first trains without spatial reduction for
100 epochs; a reduction is dropped here at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.compress.plain_attention import reason_to_stay
from sartor.core.errors import NoEffectError, RecipeError, nearest
from sartor.core.move import MoveReport
from sartor.core.packages import require
from sartor.measure import count_flops, count_params
from sartor.nn.ecoformer.attention import EcoAttention
from sartor.nn.ecoformer.backbone import fit_hashes_
from sartor.nn.ecoformer.energy import attention_energy
from sartor.nn.token_grid import token_counts

__all__ = [
    "EcoConfig",
    "convert_attention_",
    "eco_from_attention",
    "hash_attention_",
    "plan_eco",
]

#: of each hash, where there are as many tokens
_ANCHORS = 25


@dataclass(frozen=True, kw_only=True)
class EcoConfig:
    """Settings of the conversion.

    Attributes:
        layers: dotted names of the attentions to convert; empty is all that can be.
        share_qk: what the shared projection starts as: ``q``, or ``mean`` of queries and keys.
        num_bits: signs a code, at least 1.
        num_anchors: tokens that each hash compares with, at least 1 and at most the tokens;
            ``None`` is 25, or all tokens where they are fewer.
        bias: ``mean``, or ``self`` as the official code.
        topk: nearest and farthest tokens that fitting looks at, at most half of the tokens;
            ``None`` is 10, or half of the tokens where they are fewer than 20.
        steps: of SGD a bit.
        lr: its learning rate.
        images: of the batch that hashes are fitted on, in ``fit``.
        seed: draws the start of the hashes and the anchors.
    """

    layers: tuple[str, ...] = ()
    share_qk: str = "q"
    num_bits: int = 16
    num_anchors: int | None = None
    bias: str = "mean"
    topk: int | None = None
    steps: int = 100
    lr: float = 0.1
    images: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.share_qk not in ("q", "mean") or self.bias not in ("mean", "self"):
            raise RecipeError(
                "EcoFormer's share_qk is q or mean and its bias mean or self, got "
                f"{self.share_qk!r} and {self.bias!r}."
            )
        numbers = (self.num_bits, self.num_anchors, self.topk, self.steps, self.images)
        least = min(number for number in numbers if number is not None)
        if least < 1 or not 0 <= self.lr < float("inf"):
            raise RecipeError(
                "EcoFormer's bits, anchors, topk, steps and images are at least 1 and its lr at "
                f"least 0, got {self}."
            )


def hash_attention_(model: nn.Module, images: Tensor, config: EcoConfig) -> MoveReport:
    """Replace softmax attention by EcoAttention in place, and fit its hashes on a batch.

    Args:
        model: a timm vision transformer or PVTv2, or a route through several.
        images: (B, ...), on the model's device; the more the better.
        config: of the conversion.

    Returns:
        Parameters, FLOPs and modelled energy in picojoules of one input before and after; in
        ``skipped`` which attentions stayed and why, and how far the codes of each other one are
        from the pairs that they were fitted to.

    Raises:
        NoEffectError: no attention could be replaced.
        RecipeError: ``config.layers`` names what is no attention.
        DataError: there are too few tokens for the anchors or ``topk``.

    Example:
        >>> from sartor.nn import tiny_vit
        >>> model, images = tiny_vit(patch_size=1), torch.randn(4, 1, 8, 8)
        >>> report = hash_attention_(model, images, EcoConfig(steps=2))
        >>> report.after["energy_pj"] < report.before["energy_pj"]
        True
    """
    before = _count(model, images[:1])
    plan, skipped = plan_eco(model, images[:1], config)
    if not plan:
        raise NoEffectError(
            f"EcoFormer replaced nothing in {type(model).__name__}: "
            f"{'; '.join(skipped[:3]) or 'it has no attention of timm'}; leave EcoFormer out."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        convert_attention_(model, plan, config)
        errors = fit_hashes_(model, images, topk=config.topk, steps=config.steps, lr=config.lr)
    notes = [f"{name}: affinity error {error:.2f}" for name, error in errors.items()]
    after = _count(model, images[:1])
    return MoveReport(before=before, after=after, skipped=(*skipped, *notes))


def plan_eco(
    model: nn.Module, example: Tensor, config: EcoConfig
) -> tuple[dict[str, int], list[str]]:
    """Find the attentions that EcoAttention can take the place of.

    Returns:
        Name of the attention -> anchors of its hash; and a sentence for each attention that must
        stay.

    Raises:
        RecipeError: ``config.layers`` names what is no attention.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, _kinds())}
    for name in config.layers:
        if name not in found:
            raise RecipeError(f"There is no attention {name!r}; {nearest(name, found)}")
    tokens = token_counts(model, example, found)
    plan, skipped = {}, []
    for name, attention in found.items():
        reason = _reason_to_stay(attention) if name in tokens else "the model does not run it"
        if config.layers and name not in config.layers:
            reason = "it is not asked for"
        if reason:
            skipped.append(f"{name}: {reason}")
        else:
            plan[name] = config.num_anchors or min(_ANCHORS, tokens[name][0])
    return plan, skipped


def convert_attention_(model: nn.Module, plan: Mapping[str, int], config: EcoConfig) -> None:
    """Put EcoAttention with unfitted hashes in the place of attentions, with their weights.

    Args:
        model: is changed in place.
        plan: as :func:`plan_eco` gives it.
        config: of the conversion.

    Raises:
        RecipeError: a name is not that of an attention which can be replaced, or it gets no
            anchors.
    """
    for name, anchors in plan.items():
        modules = dict(model.named_modules())
        attention = modules.get(name)
        fits = isinstance(attention, _kinds()) and not _reason_to_stay(attention)
        if not fits or type(anchors) is not int or anchors < 1:
            raise RecipeError(
                f"The recipe puts EcoAttention with {anchors!r} anchors at {name!r}, where it "
                "cannot be; fit again."
            )
        owner, _, leaf = name.rpartition(".")
        made = eco_from_attention(attention, config, anchors).train(attention.training)
        setattr(modules[owner], leaf, made)


@torch.no_grad()
def eco_from_attention(
    attention: Any, config: EcoConfig, num_anchors: int = _ANCHORS
) -> EcoAttention:
    """Make an EcoAttention of the weights of timm's plain or PVTv2's attention.

    Args:
        attention: is left as it is.
        config: of the conversion.
        num_anchors: of its hash.

    Returns:
        The layer, its hash not fitted.
    """
    parts = {}  # kind -> queries', keys' and values' rows
    for kind in ("weight", "bias"):
        joint = (attention.qkv,) if hasattr(attention, "qkv") else (attention.q, attention.kv)
        rows = [getattr(layer, kind) for layer in joint]
        if rows[0] is not None:
            parts[kind] = torch.cat(rows).chunk(3)
    eco = EcoAttention(
        attention.proj.out_features,
        attention.num_heads,
        qkv_bias="bias" in parts,
        num_bits=config.num_bits,
        num_anchors=num_anchors,
        bias=config.bias,
        proj_drop=attention.proj_drop.p,
    ).to(attention.proj.weight)
    for kind, (q, k, v) in parts.items():
        getattr(eco.qk, kind).copy_(q if config.share_qk == "q" else (q + k) / 2)
        getattr(eco.v, kind).copy_(v)
    eco.proj.weight.copy_(attention.proj.weight)
    eco.proj.bias.copy_(0 if attention.proj.bias is None else attention.proj.bias)
    return eco


def _kinds() -> tuple[type[Any], ...]:
    return require("timm.layers").Attention, require("timm.models.pvt_v2").Attention


def _reason_to_stay(attention: Any) -> str:
    if hasattr(attention, "kv"):
        return "it pools its keys" if attention.pool is not None else ""
    return reason_to_stay(attention)


def _count(model: nn.Module, example: Tensor) -> dict[str, float]:
    return {
        "params": count_params(model),
        "flops": count_flops(model, example),
        "energy_pj": attention_energy(model, tuple(example.shape[1:])).pj,
    }
