"""Weights of SPViT's authors' checkpoints, as the plain layers here have them.

Names are those of ziplab/SPViT's fine-tuned DeiTs. There a convolution is kept as the value and
output weights of the attention that it came from, with the logits that mix their heads; here they
are mixed once, by the formula of :func:`sartor.nn.spvit.bottleneck_conv.conv_weights`. Files that
the authors' own script has made compact are taken too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sartor.core.errors import FamilyError
from sartor.nn.spvit.bottleneck_conv import conv_weights

__all__ = ["ALPHA", "plain_state"]

#: temperature of the softmax over heads in the authors' DeiTs
ALPHA = 0.01

_COMPACT = {"bconv.0": "conv", "bconv.1": "norm", "bconv.3": "proj"}


def plain_state(state: Mapping[str, Tensor], *, alpha: float = ALPHA) -> dict[str, Tensor]:
    """Turn an authors' state dict into one of :func:`sartor.nn.spvit.backbone.spvit_deit`.

    Args:
        state: name -> tensor; entries that have their names here stay as they are.
        alpha: temperature of the softmax over heads.

    Raises:
        FamilyError: it is of a search, or a convolution lacks a weight.

    Example:
        >>> qk, v = torch.zeros(8, 4), torch.ones(4, 4)
        >>> plain_state({"blocks.0.attn.qk.weight": qk, "blocks.0.attn.v.weight": v}).keys()
        dict_keys(['blocks.0.attn.qkv.weight'])
    """
    made: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        stem, attn, leaf = name.partition(".attn.")
        if attn:
            layers.setdefault(stem, {})[leaf] = value
        else:
            made[name] = value
    for stem, layer in layers.items():
        try:
            plain = _plain(layer, alpha)
        except KeyError as error:
            raise FamilyError(
                f"The checkpoint's {stem}.attn is a convolution or attention of SPViT's authors "
                f"without its {error.args[0]!r}; give the authors' file as it was published."
            ) from error
        made |= {f"{stem}.attn.{leaf}": value for leaf, value in plain.items()}
    return made


def _plain(layer: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    if "kernel_thresholds" in layer:
        raise FamilyError(
            "The checkpoint is of SPViT's search, whose gates are still open; give one that was "
            "fine-tuned."
        )
    if "head_probs" in layer:
        return _convolution(layer, alpha)
    if "qk.weight" in layer:
        return _attention(layer)
    renamed = {}
    for leaf, value in layer.items():
        stem, _, kind = leaf.rpartition(".")
        flat = leaf == "bconv.3.weight"  # there a convolution of one position, here a linear layer
        renamed[f"{_COMPACT.get(stem, stem)}.{kind}"] = value.flatten(1) if flat else value
    return renamed


def _attention(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join queries and keys with the values."""
    rest = dict(layer)
    joined = {
        f"qkv.{kind}": torch.cat((rest.pop(f"qk.{kind}"), rest.pop(f"v.{kind}")))
        for kind in ("weight", "bias")
        if f"qk.{kind}" in layer
    }
    return {**joined, **rest}


def _convolution(layer: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Mix the heads, once and for all."""
    side = 1 if "bn_1x1.weight" in layer else 3
    norm = f"bn_{side}x{side}."
    weights = conv_weights(
        layer["v.weight"],
        layer["v.bias"],
        layer["proj.weight"],
        layer["head_probs"],
        kernel_size=side,
        alpha=alpha,
    )
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {
        "conv.weight": weights.inner.detach(),
        "conv.bias": weights.inner_bias.detach(),
        "proj.weight": weights.outer.detach(),
        "proj.bias": layer["proj.bias"],
        **{f"norm.{name}": layer[norm + name] for name in statistics},
    }
