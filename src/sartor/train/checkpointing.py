"""Activation checkpointing of a model's repeated blocks, without changing the model's code.

Source: Tianqi Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174.
Deviations: every block is one segment; torch's ``checkpoint`` does the work. Batch norms keep
running statistics of the first pass alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from sartor.core.errors import NoEffectError, RecipeError, nearest

__all__ = ["checkpoint_blocks_", "repeated_blocks"]

_MODES = ("blocks", "selective")
_LISTS = (nn.ModuleList, nn.Sequential)

#: results of these are kept in ``selective`` mode: they cost most to compute again
_PRODUCTS = (
    *("mm", "addmm", "bmm", "baddbmm", "convolution"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_cudnn_attention"),
)


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Find the outermost modules that stand in a list of two or more of their class.

    Stages, that is modules with such a list right inside, are no blocks; their blocks are.

    Args:
        model: any module; lists are ``nn.ModuleList`` and ``nn.Sequential``.

    Returns:
        Path -> block, in order; blocks have children of their own.

    Example:
        >>> def block():
        ...     return nn.TransformerEncoderLayer(8, 2, 16)
        >>> list(repeated_blocks(nn.ModuleDict({"layers": nn.ModuleList([block(), block()])})))
        ['layers.0', 'layers.1']
    """
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        inside = any(path == taken or path.startswith(f"{taken}.") for taken in found)
        if not inside and _lists_blocks(module):
            found |= {
                f"{path}.{name}".lstrip("."): child
                for name, child in module.named_children()
                if not any(_lists_blocks(part) for part in child.children())
            }
    return found


def _lists_blocks(module: nn.Module) -> bool:
    """Whether a module is a list of two or more modules of one class with children."""
    if not isinstance(module, _LISTS):
        return False
    children = list(module.children())
    (kind, *others) = {type(child) for child in children} or {nn.Identity}
    made_of_parts = all(next(child.children(), None) is not None for child in children)
    return len(children) > 1 and not others and made_of_parts and kind not in _LISTS


def checkpoint_blocks_(model: nn.Module, mode: str = "blocks") -> Callable[[], None]:
    """Let every repeated block forget its activations and compute them again in the backward pass.

    Gradients are the same; dropout repeats its draws. In eval mode or without gradients nothing
    changes.

    Args:
        model: changed in place, its parameters and their names are not.
        mode: ``blocks`` keeps the inputs of the blocks alone; ``selective`` also the results of
            matrix products, attention and convolutions.

    Returns:
        Call it to undo.

    Raises:
        NoEffectError: the model has no repeated blocks.
        RecipeError: the mode is unknown.

    Example:
        >>> from sartor.nn import tiny_vit
        >>> undo = checkpoint_blocks_(tiny_vit())
        >>> undo()
    """
    if mode not in _MODES:
        raise RecipeError(f"Blocks cannot be checkpointed as {mode!r}; {nearest(mode, _MODES)}")
    blocks = list(repeated_blocks(model).values())
    if not blocks:
        raise NoEffectError(
            f"{type(model).__name__} has no list of blocks that could be computed again; leave "
            "checkpointing out."
        )
    for block in blocks:
        block.forward = partial(_again, block, block.forward, mode)

    def undo() -> None:
        for block in blocks:
            del block.forward

    return undo


def _again(
    block: nn.Module, forward: Callable[..., Any], mode: str, *args: Any, **kwargs: Any
) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    contexts = partial(_contexts, block, mode)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(block: nn.Module, mode: str) -> tuple[Any, Any]:
    """What the first pass and the repeated one run in."""
    if mode == "blocks":
        return nullcontext(), _statistics_kept(block)
    first, second = create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]
    return first, _both(_statistics_kept(block), second)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = operation.name().split("::")[1].split(".")[0]
    return CheckpointPolicy.MUST_SAVE if name in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _both(one: Any, other: Any) -> Iterator[None]:
    with one, other:
        yield


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Running statistics of batch norms stay as the first pass left them."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [{name: b.clone() for name, b in norm.named_buffers()} for norm in norms]
    try:
        yield
    finally:
        with torch.no_grad():
            for norm, buffers in zip(norms, kept, strict=True):
                for name, value in buffers.items():
                    norm.get_buffer(name).copy_(value)
