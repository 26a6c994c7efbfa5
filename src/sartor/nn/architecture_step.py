"""One first-order step of architecture parameters, shared by searches that mix operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ArchitectureAdam"]


class ArchitectureAdam:
    """Adam for mixing parameters alone; gradients of weights are neither made nor touched.

    Source: DARTS (arXiv 1806.09055), first order: betas (0.5, 0.999), weight decay 1e-3.

    Args:
        parameters: logits of mixtures.
        lr: above 0.
        weight_decay: pulls probabilities together; at least 0.

    Example:
        >>> alpha, weight = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
        >>> ArchitectureAdam([alpha], lr=0.1).step((alpha.softmax(0) * weight)[0], [alpha])
        >>> alpha[0] < alpha[1], weight.grad
        (tensor(True), None)
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], *, lr: float, weight_decay: float = 1e-3
    ) -> None:
        self.optimizer = torch.optim.Adam(
            parameters, lr=lr, betas=(0.5, 0.999), weight_decay=weight_decay
        )

    def step(self, loss: Tensor, live: Sequence[nn.Parameter]) -> None:
        """Go one step.

        Args:
            loss: scalar, of held-out inputs.
            live: the parameters that are still searched; the others stay.
        """
        gradients = torch.autograd.grad(loss, live)
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, gradient in zip(live, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
