"""bfloat16 weights without a float32 copy: any optimiser, its updates rounded at random.

bfloat16 keeps 8 bits of a weight, so that an update below 1/256 of it is lost by rounding to the
nearest. Rounded up with the probability of what is cut off, updates arrive in the mean.

Source: Hao et al., 2025, arXiv 2505.01043, section on floats; Zamirai et al., Revisiting BFloat16
    Training, 2020, arXiv 2010.06192. Deviation: the state of the optimiser stays float32, and while
a step runs there is a float32 copy of the weights; torchao's private
``_AdamW(bf16_stochastic_round=True)`` rounds one weight at a time, for AdamW alone.
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
        with self._stand_ins() as pairs:
            self.optimizer.step()
            generators: dict[torch.device, torch.Generator] = {}
            for p, wide in pairs:
                if p.device not in generators:
                    generators[p.device] = torch.Generator(p.device).manual_seed(number)
                p.copy_(stochastic_round_bf16(wide.data, generators[p.device]))
        return value

    @contextmanager
    def _stand_ins(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Let the wrapped optimiser see float32 copies of bfloat16 weights, with their state.

        The weights themselves keep their identity and dtype, as wrappers such as
        ``DistributedDataParallel`` rely on both.
        """
        inner, pairs = self.optimizer, []
        for group in inner.param_groups:
            for place, p in enumerate(group["params"]):
                if p.dtype is torch.bfloat16:
                    wide = torch.nn.Parameter(p.detach().float(), requires_grad=p.requires_grad)
                    wide.grad = None if p.grad is None else p.grad.float()
                    group["params"][place] = wide
                    pairs.append((p, wide))
        _rename(inner.state, pairs)
        back = [(wide, p) for p, wide in pairs]
        try:
            yield pairs
        finally:
            named = {id(wide): p for wide, p in back}
            for group in inner.param_groups:
                group["params"][:] = [named.get(id(p), p) for p in group["params"]]
            _rename(inner.state, back)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """That of the wrapped optimiser; seed and steps are in its first group."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:  # type: ignore[override]
        """Inverse of :meth:`state_dict`; the state stays float32."""
        with self._stand_ins():
            self.optimizer.load_state_dict(state)
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state


def _rename(state: dict[Tensor, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Give the state of the first of each pair to the second."""
    for old, new in pairs:
        if old in state:
            state[new] = state.pop(old)
