"""Swap the attention of a trained vision transformer for HiLo.

Source: Pan, Cai, Zhuang, "Fast Vision Transformers with HiLo Attention", NeurIPS 2022, arXiv
2205.13213. The paper trains HiLo from scratch; the conversion of trained weights is sartor's
addition: heads keep their queries, keys and values, and of the output weights stay those that do
not cross the two groups of heads. Which heads look within windows is chosen so that the norm of
what stays is largest. Short training must follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.compress.plain_attention import reason_to_stay
from sartor.core.errors import NoEffectError, RecipeError
from sartor.core.move import MoveReport
from sartor.core.packages import require
from sartor.core.schema import check_keys
from sartor.measure import count_flops, count_params
from sartor.nn.litv2.hilo import HiLoAttention, hilo_heads
from sartor.nn.litv2.token_hilo import TokenHiLo
from sartor.nn.token_grid import patch_grid, token_counts

__all__ = ["HiLoConfig", "hilo_from_attention", "install_hilo_", "plan_hilo", "swap_attention_"]


@dataclass(frozen=True, kw_only=True)
class HiLoConfig:
    """Settings of the swap.

    Attributes:
        window_size: side of HiLo's windows and pooling cells, at least 1; 1 is the identity.
        alpha: share of the heads that look at the pooled map, in [0, 1].
    """

    window_size: int = 2
    alpha: float = 0.9

    def __post_init__(self) -> None:
        if self.window_size < 1 or not 0 <= self.alpha <= 1:
            raise RecipeError(
                "HiLo takes a window_size of at least 1 and an alpha in [0, 1], got "
                f"{self.window_size} and {self.alpha}."
            )


def swap_attention_(model: nn.Module, example: Tensor, config: HiLoConfig) -> MoveReport:
    """Replace every plain attention over a map of patches by HiLo, in place, keeping its weights.

    Args:
        model: a timm vision transformer, or a route through several, with or without class token.
        example: inputs (1, ...) on the model's device.
        config: of HiLo.

    Returns:
        Parameters, FLOPs and the norm of all output weights before and after; in ``skipped`` which
        attentions stayed and why, and what share of its output weights each other one lost.

    Raises:
        NoEffectError: no attention could be replaced.
        FamilyError: the model's patches form no grid.

    Example:
        >>> from sartor.nn import tiny_vit
        >>> model = tiny_vit()
        >>> report = swap_attention_(model, torch.zeros(1, 1, 8, 8), HiLoConfig(alpha=0.5))
        >>> report.after["params"] < report.before["params"]
        True
    """
    before = _count(model, example)
    plan, skipped = plan_hilo(model, example)
    if not plan:
        raise NoEffectError(
            f"HiLo replaced nothing in {type(model).__name__}: "
            f"{'; '.join(skipped[:3]) or 'it has no attention of timm'}; leave HiLo out."
        )
    lost = install_hilo_(model, plan, config)
    notes = [f"{name}: lost {share:.0%} of its output weights" for name, share in lost.items()]
    return MoveReport(before=before, after=_count(model, example), skipped=(*skipped, *notes))


def plan_hilo(model: nn.Module, example: Tensor) -> tuple[dict[str, list[int]], list[str]]:
    """Find the attentions that HiLo can take the place of.

    Returns:
        Name of the attention -> rows and columns of its map, and tokens in front; and a sentence
        for each attention that must stay.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, require("timm.layers").Attention)
    }
    if not found:
        return {}, []
    height, width = patch_grid(model)
    counts = token_counts(model, example, found)
    plan, skipped = {}, []
    for name, attention in found.items():
        tokens = counts.get(name, (0, 0))[0]
        reason = _reason_to_stay(attention, tokens - height * width)
        if reason:
            skipped.append(f"{name}: {reason}")
        else:
            plan[name] = [height, width, tokens - height * width]
    return plan, skipped


def install_hilo_(
    model: nn.Module, plan: Mapping[str, Any], config: HiLoConfig
) -> dict[str, float]:
    """Put HiLo where a plan says, with the weights that were there.

    Returns:
        Name -> share of the squared norm of its output weights that was lost.

    Raises:
        RecipeError: the plan names what the model does not have, or no sizes.
    """
    lost = {}
    for name, sizes in plan.items():
        check_keys({name: sizes}, "The recipe's plan of HiLo", {name: list}, {})
        owner_name, _, leaf = name.rpartition(".")
        modules = dict(model.named_modules())
        attention = modules.get(name)
        legal = len(sizes) == 3 and all(type(size) is int and size >= 0 for size in sizes)
        if not legal or not isinstance(attention, require("timm.layers").Attention):
            raise RecipeError(
                f"The recipe puts HiLo for maps of {sizes} at {name!r}, where none can be; fit "
                "again."
            )
        hilo, lost[name] = hilo_from_attention(attention, config)
        height, width, prefix = sizes
        made = TokenHiLo(hilo, (height, width), num_prefix_tokens=prefix)
        setattr(modules[owner_name], leaf, made.train(attention.training))
    return lost


@torch.no_grad()
def hilo_from_attention(attention: Any, config: HiLoConfig) -> tuple[HiLoAttention, float]:
    """Make a HiLo layer of a timm attention's weights.

    Args:
        attention: has ``qkv``, ``proj``, ``num_heads`` and ``head_dim``; is left as it is.
        config: of HiLo.

    Returns:
        The layer, and the share of the squared norm of the output weights that it lost.
    """
    dim, heads = attention.proj.out_features, attention.num_heads
    hilo = HiLoAttention(
        dim,
        heads,
        qkv_bias=attention.qkv.bias is not None,
        window_size=config.window_size,
        alpha=config.alpha,
        proj_drop=attention.proj_drop.p,
    ).to(attention.qkv.weight)
    high, low = _choose_heads(attention, config)
    out = attention.proj.weight.unflatten(1, (heads, -1))  # (C, heads, d)
    for suffix in ("weight", "bias"):
        rows = getattr(attention.qkv, suffix)
        if rows is None:
            continue
        rows = rows.unflatten(0, (3, heads, -1))  # (3, heads, d) and (, C)
        if high:
            getattr(hilo.hi_qkv, suffix).copy_(rows[:, high].flatten(0, 2))
        if low:
            getattr(hilo.lo_q, suffix).copy_(rows[0, low].flatten(0, 1))
            getattr(hilo.lo_kv, suffix).copy_(rows[1:, low].flatten(0, 2))
    kept = torch.zeros((), dtype=out.dtype, device=out.device)
    edge = hilo.hi_dim
    parts = (("hi_proj", slice(edge), high), ("lo_proj", slice(edge, None), low))
    for part, channels, group in parts:
        if group:
            layer = getattr(hilo, part)
            layer.weight.copy_(out[channels, group].flatten(1))
            layer.bias.copy_(0 if attention.proj.bias is None else attention.proj.bias[channels])
            kept += layer.weight.square().sum()
    return hilo, float(1 - kept / out.square().sum())


def _choose_heads(attention: Any, config: HiLoConfig) -> tuple[list[int], list[int]]:
    """Heads that look within windows, those whose outputs weigh most in the first channels."""
    heads = attention.num_heads
    count, _ = hilo_heads(heads, config.alpha, config.window_size)
    weights = attention.proj.weight.unflatten(1, (heads, -1)).square().sum(dim=2)  # (C, heads)
    edge = count * attention.head_dim
    gain = weights[:edge].sum(dim=0) - weights[edge:].sum(dim=0)  # (heads,)
    high = sorted(gain.argsort(descending=True, stable=True)[:count].tolist())
    return high, [head for head in range(heads) if head not in high]


def _reason_to_stay(attention: Any, prefix: int) -> str:
    if prefix < 0:
        return "its tokens are no map of patches"
    return reason_to_stay(attention)


def _count(model: nn.Module, example: Tensor) -> dict[str, float]:
    squares = sum(float(w.detach().square().sum()) for w in _output_weights(model))
    return {
        "params": count_params(model),
        "flops": count_flops(model, example),
        "output_norm": squares**0.5,
    }


def _output_weights(model: nn.Module) -> Iterator[Tensor]:
    """Weights that mix what heads give, of plain attention and of HiLo."""
    for module in model.modules():
        if isinstance(module, require("timm.layers").Attention):
            yield module.proj.weight
        elif isinstance(module, HiLoAttention):
            for name in ("hi_proj", "lo_proj"):
                if hasattr(module, name):
                    yield getattr(module, name).weight
