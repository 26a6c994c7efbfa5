"""What keeps an attention of timm from being converted."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["reason_to_stay"]


def reason_to_stay(attention: Any) -> str:
    """Say how an attention differs from plain softmax attention, in a few words.

    Args:
        attention: a ``timm.layers.Attention``.

    Returns:
        The first difference; empty if there is none.
    """
    if attention.attn_dim != attention.qkv.in_features:
        return "its heads are fewer than its channels"
    if attention.proj.out_features != attention.attn_dim:
        return "it changes the number of channels"
    parts = (attention.q_norm, attention.k_norm, attention.norm)
    if getattr(attention, "gate", None) is not None or any(
        not isinstance(part, nn.Identity) for part in parts
    ):
        return "it normalises or gates inside"
    return ""
