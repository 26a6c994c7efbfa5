"""Floating-point operations and parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sartor.core.modes import eval_mode
from sartor.runtime.quiet import generators_kept

__all__ = ["count_flops", "count_params"]


def count_flops(model: nn.Module, example: Tensor) -> int:
    """Count the operations of one input in eval mode, multiply and add apart.

    Counted are matrix products and convolutions, as ``torch.utils.flop_counter`` does; biases,
    norms and activations are not. Attention is counted in full, also where a fused kernel or
    torch's transformer fast path would hide it, and where a mask makes part of it needless.

    Args:
        model: on any device, ``meta`` included.
        example: inputs (B >= 1, ...) on the same device; the first is used.

    Returns:
        Operations of one input; a ResNet-18 at 224 has 3,628,146,688.

    Example:
        >>> count_flops(nn.Linear(4, 2, bias=False), torch.zeros(1, 4))
        16
    """
    counter = FlopCounterMode(display=False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            eval_mode(model),
            torch.no_grad(),
            generators_kept(),
            sdpa_kernel(SDPBackend.MATH),
            counter,
        ):
            model(example[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return int(counter.get_total_flops())


def count_params(model: nn.Module) -> int:
    """Count the values of all parameters; one that is shared counts once.

    Example:
        >>> count_params(nn.Linear(4, 2))
        10
    """
    return sum(parameter.numel() for parameter in model.parameters())
