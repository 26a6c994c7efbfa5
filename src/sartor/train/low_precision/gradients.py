"""Gradients that are sent in few bits, with what was cut off sent later.

Source: Seide et al., 1-Bit Stochastic Gradient Descent, 2014 (sign with error feedback); Stich,
    Cordonnier, Jaggi, 2018, arXiv 1809.07599 (top-k); Alistarh et al., QSGD, 2017, arXiv
    1610.02132.
torch's communication hooks already cast to float16 and bfloat16 and have PowerSGD. Deviation: what
is sent here is a dense float tensor that could be packed; bytes on the wire are not saved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sartor.core.errors import RecipeError

__all__ = ["ErrorFeedback", "quantize_gradient", "sign_gradient", "top_k_gradient"]

Compressor = Callable[[Tensor], Tensor]


def sign_gradient(gradient: Tensor) -> Tensor:
    """Signs times the mean magnitude: 1 bit a value.

    Example:
        >>> sign_gradient(torch.tensor([1.0, -3.0])).tolist()
        [2.0, -2.0]
    """
    return torch.where(gradient < 0, -1.0, 1.0).to(gradient) * gradient.abs().mean()


def top_k_gradient(fraction: float) -> Compressor:
    """Keep the values of largest magnitude.

    Args:
        fraction: kept, in (0, 1]; at least one value.

    Raises:
        RecipeError: out of range.

    Example:
        >>> top_k_gradient(0.5)(torch.tensor([1.0, -3.0])).tolist()
        [0.0, -3.0]
    """
    if not 0 < fraction <= 1:
        raise RecipeError(f"The fraction of values kept lies in (0, 1], got {fraction}.")

    def compress(gradient: Tensor) -> Tensor:
        flat = gradient.flatten()
        chosen = flat.abs().topk(max(round(fraction * len(flat)), 1)).indices
        return torch.zeros_like(flat).scatter_(0, chosen, flat[chosen]).view_as(gradient)

    return compress


def quantize_gradient(levels: int, *, seed: int = 0) -> Compressor:
    """QSGD: magnitudes over the norm, rounded at random to ``levels`` steps; the mean is kept.

    Args:
        levels: at least 1.
        seed: of the rounding.

    Raises:
        RecipeError: ``levels`` is below 1.
    """
    if levels < 1:
        raise RecipeError(f"QSGD takes at least 1 level, got {levels}.")
    generators: dict[torch.device, torch.Generator] = {}

    def compress(gradient: Tensor) -> Tensor:
        device = gradient.device
        draw = generators.setdefault(device, torch.Generator(device).manual_seed(seed))
        step = gradient.norm() / levels
        if step == 0:
            return gradient.clone()
        noise = torch.empty_like(gradient).uniform_(generator=draw)
        return gradient.sign() * (gradient.abs() / step + noise).floor() * step

    return compress


class ErrorFeedback:
    """Compresses what is sent and remembers the rest, which is added before the next sending.

    What was sent and what is remembered sum to all that came in.

    Args:
        compressor: gradient -> what is sent, of the same shape.

    Example:
        >>> feedback = ErrorFeedback(top_k_gradient(0.5))
        >>> [feedback("w", torch.tensor([1.0, -3.0])).tolist() for _ in range(3)]
        [[0.0, -3.0], [0.0, -3.0], [3.0, 0.0]]
    """

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor
        self.residuals: dict[str, Tensor] = {}

    def __call__(self, name: str, gradient: Tensor) -> Tensor:
        """Return what is sent of a gradient.

        Args:
            name: of the tensor whose rest is remembered.
            gradient: any shape, the same for each name.
        """
        whole = gradient + self.residuals.get(name, torch.zeros_like(gradient))
        sent = self.compressor(whole)
        self.residuals[name] = whole - sent
        return sent

    # without annotations: torch compares them with its own types and refuses their names
    def hook(self, group, bucket):  # type: ignore[no-untyped-def]
        """A communication hook: ``ddp.register_comm_hook(None, feedback.hook)``.

        Args:
            group (ProcessGroup): ``None`` for all processes.
            bucket (GradBucket): of ``DistributedDataParallel``.
        """
        sent = self(f"bucket {bucket.index()}", bucket.buffer())
        sent = sent / torch.distributed.get_world_size(group)
        work = torch.distributed.all_reduce(sent, group=group, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    def state_dict(self) -> dict[str, Tensor]:
        """What is remembered; each process has its own."""
        return {name: rest.clone() for name, rest in self.residuals.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.residuals = {name: rest.clone() for name, rest in state.items()}
