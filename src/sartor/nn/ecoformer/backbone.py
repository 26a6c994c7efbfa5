"""EcoFormer's backbones: PVTv2 with binary attention in its first three stages.

Source: Liu, Pan, He, Cai, Zhuang, "EcoFormer: Energy-Saving Attention with Linear Complexity",
NeurIPS 2022, arXiv 2209.09004; names of the official weights from ziplab/EcoFormer. The pyramid is
timm's. Deviation: a new model's hash functions start random, so that it can be trained from
scratch; :func:`fit_hashes_` fits them, and official checkpoints bring theirs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError, NoEffectError
from sartor.core.modes import eval_mode
from sartor.core.packages import require
from sartor.nn.backbone import Backbone
from sartor.nn.ecoformer.attention import EcoAttention

__all__ = ["BACKBONES", "eco_pvt_v2", "fit_hashes_", "official_key"]


@torch.no_grad()
def fit_hashes_(
    model: nn.Module,
    images: Tensor,
    *,
    topk: int | None = 10,
    steps: int = 100,
    lr: float = 0.1,
    masked: bool = True,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Fit the hash of every EcoAttention in one forward pass, in the order in which they run.

    Each layer sees what the fitted layers before it give. Call it before any training.

    Args:
        model: its modes are left as they were found.
        images: a batch (B, ...), as many as fit; a layer takes 12 * B * H * N^2 bytes of memory.
        topk: nearest and farthest tokens of each token that count; ``None`` is 10, or half of the
            tokens where they are fewer than 20.
        steps: of SGD a bit.
        lr: its learning rate; the paper's is 5e-4.
        masked: whether fitting leaves out pairs that are neither near nor far.
        generator: draws anchors; ``None`` is torch's.

    Returns:
        Name of the attention -> error of the codes' affinity on these images.

    Raises:
        NoEffectError: the model has no EcoAttention.
        DataError: a layer has too few tokens, or a number is outside its range.
    """
    errors: dict[str, float] = {}

    def fit(layer: EcoAttention, inputs: tuple[Any, ...], *, name: str) -> None:
        z = layer.hash_inputs(inputs[0])
        count = min(10, z.shape[2] // 2) if topk is None else topk
        try:
            layer.hash.fit(z, topk=count, steps=steps, lr=lr, masked=masked, generator=generator)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        errors[name] = layer.hash.affinity_error(z, topk=count)

    hooks = [
        module.register_forward_pre_hook(functools.partial(fit, name=name))
        for name, module in model.named_modules()
        if isinstance(module, EcoAttention)
    ]
    if not hooks:
        raise NoEffectError(
            f"{type(model).__name__} has no EcoAttention; convert it with hash_attention_ first."
        )
    try:
        with eval_mode(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return errors


def eco_pvt_v2(
    *,
    eco_stages: tuple[int, ...] = (0, 1, 2),
    num_bits: int = 16,
    num_anchors: int = 25,
    bias: str = "mean",
    random_hash: bool = True,
    **kwargs: Any,
) -> nn.Module:
    """Make timm's ``PyramidVisionTransformerV2`` without spatial reduction, with EcoAttention.

    Args:
        eco_stages: stages whose attention is EcoAttention, from 0; others keep softmax attention.
        num_bits: signs a code.
        num_anchors: of each hash.
        bias: ``mean``, or ``self`` as the official code, for its weights.
        random_hash: whether hashes start random, and not unfitted.
        **kwargs: of timm's class; ``sr_ratios`` and ``linear`` cannot be given.

    Raises:
        FamilyError: there is no such stage, or spatial reduction is asked for.
    """
    if {"sr_ratios", "linear"} & kwargs.keys():
        raise FamilyError("EcoFormer's pyramid reduces no keys; leave sr_ratios and linear out.")
    stages = len(kwargs.get("depths", range(4)))
    model: Any = _pyramid()(sr_ratios=(1,) * stages, **kwargs)
    if not {*eco_stages} <= {*range(stages)}:
        raise FamilyError(f"The stages are 0 to {stages - 1}, got eco_stages={eco_stages}.")
    for index in eco_stages:
        for block in model.stages[index].blocks:
            block.attn = EcoAttention(
                block.attn.dim,
                block.attn.num_heads,
                qkv_bias=block.attn.q.bias is not None,
                num_bits=num_bits,
                num_anchors=num_anchors,
                bias=bias,
                proj_drop=block.attn.proj_drop.p,
                random_hash=random_hash,
            ).apply(model._init_weights)
    built: nn.Module = model
    return built


@functools.cache
def _pyramid() -> type:
    """The pyramid of timm, which also takes what differs in shape in the authors' checkpoints."""
    base: Any = require("timm.models.pvt_v2").PyramidVisionTransformerV2

    class EcoPyramid(base):  # type: ignore[misc]
        def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            """Split joint queries, keys and values; take singleton dimensions out of a hash."""
            adapted = dict(state)
            for name, value in state.items():
                stem, _, leaf = name.partition(".attn.")
                if leaf in ("qkv.weight", "qkv.bias"):
                    third, kind = len(adapted.pop(name)) // 3, leaf.removeprefix("qkv.")
                    adapted[f"{stem}.attn.q.{kind}"] = value[:third]
                    adapted[f"{stem}.attn.kv.{kind}"] = value[third:]
                elif leaf == "hash.mean" and value.ndim == 4:
                    adapted[name] = value[0, :, 0]
                    adapted[f"{stem}.attn.hash.is_fitted"] = torch.tensor(True)
                elif leaf == "hash.anchors" and value.ndim == 4:
                    adapted[name] = value[0]
            return adapted

    return EcoPyramid


def official_key(name: str) -> str | None:
    """Name of an official weight here; a random matrix that plays no part has none.

    Example:
        >>> official_key("block2.0.attn.fast_attention.ksh.mvec")
        'stages.1.blocks.0.attn.hash.mean'
    """
    if name.endswith("projection_matrix"):
        return None
    name = re.sub(r"^patch_embed1\.", "patch_embed.", name)
    name = re.sub(r"^patch_embed(\d)", lambda m: f"stages.{int(m[1]) - 1}.downsample", name)
    name = re.sub(r"^block(\d)", lambda m: f"stages.{int(m[1]) - 1}.blocks", name)
    name = re.sub(r"^norm(\d)", lambda m: f"stages.{int(m[1]) - 1}.norm", name)
    name = name.replace(".dwconv.dwconv.", ".dwconv.").replace(".attn.to_", ".attn.")
    for old, new in (("A", "weight"), ("mvec", "mean"), ("anchor", "anchors")):
        name = re.sub(rf"\.fast_attention\.ksh\.{old}$", f".hash.{new}", name)
    return name


def _backbone(size: str, embed_dims: tuple[int, ...], depths: tuple[int, ...]) -> Backbone:
    return Backbone(
        name=f"ecoformer_pvt_v2_{size}",
        model=eco_pvt_v2,
        kwargs={
            "embed_dims": embed_dims,
            "depths": depths,
            "num_heads": (1, 2, 5, 8),
            "drop_path_rate": 0.1,
        },
        official_key=official_key,
    )


_WIDE = (64, 128, 320, 512)

#: the published sizes
BACKBONES = (
    _backbone("b0", (32, 64, 160, 256), (2, 2, 2, 2)),
    _backbone("b1", _WIDE, (2, 2, 2, 2)),
    _backbone("b2", _WIDE, (3, 4, 6, 3)),
    _backbone("b3", _WIDE, (3, 4, 18, 3)),
    _backbone("b4", _WIDE, (3, 8, 27, 3)),
)
