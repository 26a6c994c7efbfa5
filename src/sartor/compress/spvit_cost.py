"""What SPViT's gates can change in a transformer, and what that costs by the paper's count.

Source: He, Cai, Liu, Pan, Zhang, Tao, Zhuang, "Pruning Self-attentions into Convolutional Layers in
Single Path", TPAMI 2024, arXiv 2111.11802. Addition: routes through several transformers, whose
blocks differ in width and have linear layers between them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sartor.compress.plain_attention import reason_to_stay
from sartor.core.errors import FamilyError
from sartor.nn.token_grid import patch_grid

__all__ = ["branch_macs", "check_transformer", "cost_bounds", "prefix_tokens", "transformer_blocks"]


def branch_macs(dim: int, num_heads: int, patches: int, tokens: int) -> tuple[int, int, int]:
    """Multiply-adds of the 1x1 and the 3x3 bottleneck and of attention, by the paper's count.

    Example:
        >>> branch_macs(192, 3, 196, 197)
        (4816896, 24084480, 43951488)
    """
    hidden = dim // num_heads
    dear = 4 * tokens * dim**2 + 2 * dim * tokens**2
    return patches * 2 * dim * hidden, patches * 10 * dim * hidden, dear


def cost_bounds(model: nn.Module) -> tuple[float, float]:
    """Multiply-adds of a vision transformer with all gates closed and open.

    Closed leaves patch embedding, classifier, norms, and layers that stitch blocks together.

    Raises:
        FamilyError: as :func:`check_transformer`.
    """
    blocks, entries = check_transformer(model), _entries(model)
    height, width = patch_grid(model)
    patches = height * width
    tokens = patches + prefix_tokens(model)
    floor = patches * _patch_weights(model) + _class_weights(model)
    floor += sum(tokens * layer.weight.numel() for layer in entries if isinstance(layer, nn.Linear))
    open_costs = 0
    for block in blocks:
        dim, units = block.attn.qkv.in_features, block.mlp.fc1.out_features
        floor += 2 * dim * tokens
        open_costs += branch_macs(dim, block.attn.num_heads, patches, tokens)[2]
        open_costs += 2 * patches * dim * units
    return float(floor), float(floor + open_costs)


def transformer_blocks(model: nn.Module) -> list[Any]:
    """Blocks with attention and a feed-forward layer, in order; stitching layers are left out."""
    return [block for block in _entries(model) if hasattr(block, "attn") and hasattr(block, "mlp")]


def prefix_tokens(model: nn.Module) -> int:
    """How many tokens stand in front of those of the patches.

    Raises:
        FamilyError: nothing in the model says so.
    """
    for module in model.modules():
        count = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            return count
    raise _refusal(model)


def check_transformer(model: nn.Module) -> list[Any]:
    """Blocks of a vision transformer, or of a route through several, that a search can go through.

    Raises:
        FamilyError: it is another model, or a block has other than plain attention and a plain
            feed-forward layer.
    """
    blocks, entries = transformer_blocks(model), _entries(model)
    stitches = sum(isinstance(entry, nn.Linear) for entry in entries)
    whole = bool(blocks) and len(blocks) + stitches == len(entries)
    if not whole or not all(_plain(block) for block in blocks):
        raise _refusal(model)
    prefix_tokens(model)
    return blocks


def _entries(model: nn.Module) -> list[Any]:
    blocks = getattr(model, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) else []


def _plain(block: Any) -> bool:
    attn = block.attn  # one of timm's, or what an earlier conversion left
    return (
        hasattr(attn, "attn_dim")
        and not reason_to_stay(attn)
        and isinstance(getattr(block.mlp, "norm", None), nn.Identity)
    )


def _refusal(model: nn.Module) -> FamilyError:
    return FamilyError(
        f"SPViT searches through plain vision transformers of timm, and {type(model).__name__} "
        "is none, or its blocks were changed; give a VisionTransformer or DeiT."
    )


def _patch_weights(model: nn.Module) -> int:
    """Of the convolution that cuts an image into patches."""
    for module in model.modules():
        proj = getattr(module, "proj", None)
        if hasattr(module, "grid_size") and isinstance(proj, nn.Conv2d):
            return proj.weight.numel()
    raise _refusal(model)


def _class_weights(model: nn.Module) -> int:
    """Of the classifier; in a route the last part that has one."""
    owners: list[Any] = [m for m in model.modules() if hasattr(m, "get_classifier")]
    classifier = owners[-1].get_classifier() if owners else None
    return classifier.weight.numel() if isinstance(classifier, nn.Linear) else 0
