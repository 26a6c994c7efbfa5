"""How vision transformers begin: the weights of their linear layers."""

from __future__ import annotations

from torch import nn

__all__ = ["init_linear_"]


def init_linear_(module: nn.Module) -> None:
    """Draw a linear layer's weights from a cut normal distribution of deviation 0.02, and set its
    biases to 0; other modules are left as they are. For :meth:`torch.nn.Module.apply`.

    Example:
        >>> float(nn.Linear(2, 3).apply(init_linear_).bias.abs().sum())
        0.0
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
