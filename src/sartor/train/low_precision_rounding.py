"""bfloat16 weights without a float32 copy: any optimiser, its updates rounded at random.

bfloat16 keeps 8 bits of a weight, so that an update below 1/256 of it is lost by rounding to the
nearest. Rounded up with the probability of what is cut off, updates arrive in the mean.

Source: Hao et al., 2025, arXiv 2505.01043, section on floats; Zamirai et al., Revisiting BFloat16
    Training, 2020, arXiv 2010.06192. Deviation: the state of the optimiser stays float32, and while
a step runs the weights are float32 too; torchao's private ``_AdamW(bf16_stochastic_round=True)``
rounds one weight at a time, for AdamW alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sartor.core.errors import NoEffectError, RecipeError

__all__ = ["StochasticRounding", "stochastic_round_bf16"]

COUNT, SEED = "stochastic_rounding_steps", "stochastic_rounding_seed"


def stochastic_round_bf16(values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Round float32 to one of the two nearest bfloat16 numbers, with the mean kept.

    Args:
        values: any shape, float32.
        generator: of the choice.

    Example:
        >>> stochastic_round_bf16(torch.full((4,), 1.5)).tolist()
        [1.5, 1.5, 1.5, 1.5]
    """
    bits = values.view(torch.int32)
    noise = torch.empty_like(bits).random_(0, 1 << 16, generator=generator)
    rounded = ((bits + noise) & -(1 << 16)).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


class StochasticRounding(torch.optim.Optimizer):
    """Wraps an optimiser of bfloat16 weights; other weights are updated as ever.

    It shares groups and state with the wrapped one, so that schedules and checkpoints see one
    optimiser. All processes round alike, as the seed and the number of steps decide.

    Args:
        optimizer: any of torch's, on the weights that are to stay bfloat16.
        seed: of the rounding.

    Raises:
        RecipeError: a weight is float16.
        NoEffectError: no weight is bfloat16.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        >>> optimizer = StochasticRounding(torch.optim.SGD([weight], lr=1e-3))
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight.dtype
        torch.bfloat16
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, seed: int = 0) -> None:
        kinds = {p.dtype for group in optimizer.param_groups for p in group["params"]}
        if torch.float16 in kinds:
            raise RecipeError(
                "Stochastic rounding is for bfloat16 weights, got float16 ones, whose range needs "
                "loss scaling and a float32 copy; call model.bfloat16(), or train with "
                "TrainSettings(precision='fp16')."
            )
        if torch.bfloat16 not in kinds:
            raise NoEffectError(
                f"No weight is bfloat16, all are {', '.join(sorted(map(str, kinds)))}; call "
                "model.bfloat16() first, or drop the wrapper."
            )
        self.optimizer = optimizer
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.state = optimizer.state
        for values in self.state.values():  # of optimisers that make their state at once
            for name, value in values.items():
                if isinstance(value, Tensor) and value.dtype is torch.bfloat16:
                    values[name] = value.float()
        first = self.param_groups[0]
        first.setdefault(COUNT, 0)
        first.setdefault(SEED, seed)
        self.optimizer.param_groups = self.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update in float32, round the weights back to bfloat16.

        Args:
            closure: evaluates the model anew and returns the loss; run before the update.
        """
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        first = self.param_groups[0]
        number = (int(first[SEED]) << 32) + int(first[COUNT])
        first[COUNT] = int(first[COUNT]) + 1
        with self._in_float32() as narrow:
            self.optimizer.step()
            generators: dict[torch.device, torch.Generator] = {}
            for p in narrow:
                if p.device not in generators:
                    generators[p.device] = torch.Generator(p.device).manual_seed(number)
                p.data = stochastic_round_bf16(p.data, generators[p.device])
        return value

    @contextmanager
    def _in_float32(self) -> Iterator[list[Tensor]]:
        """Hold bfloat16 weights and their gradients in float32; give them back as bfloat16."""
        narrow = [p for g in self.param_groups for p in g["params"] if p.dtype is torch.bfloat16]
        gradients = [p.grad for p in narrow]
        for p, gradient in zip(narrow, gradients, strict=True):
            p.grad = None
            p.data = p.data.float()
            p.grad = None if gradient is None else gradient.float()
        try:
            yield narrow
        finally:
            for p, gradient in zip(narrow, gradients, strict=True):
                p.grad = None
                p.data = p.data.to(torch.bfloat16)
                p.grad = gradient

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """That of the wrapped optimiser; seed and steps are in its first group."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:  # type: ignore[override]
        """Inverse of :meth:`state_dict`; the state stays float32."""
        with self._in_float32():
            self.optimizer.load_state_dict(state)
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state
