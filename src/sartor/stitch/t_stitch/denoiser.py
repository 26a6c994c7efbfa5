"""A denoiser made of several: each timestep is answered by the one whose turn it is.

Source: Pan et al., T-Stitch, 2024, arXiv 2402.14167; see :mod:`sartor.stitch.t_stitch.assignment`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import DataError, FamilyError, RecipeError
from sartor.core.modes import eval_mode
from sartor.stitch.t_stitch.trajectory import (
    check_fractions,
    step_boundaries,
    step_numbers,
    timestep_allocation,
)

__all__ = ["RULES", "StitchedDenoiser", "check_denoisers", "one_timestep"]

#: what a model's share is a share of: the number of steps, or the range of the timesteps
RULES = ("step", "timestep")


class _Function(nn.Module):
    """A denoiser that is a function and no module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class StitchedDenoiser(nn.Module):
    """Calls, at each timestep, the denoiser whose turn it is.

    Args:
        denoisers: smallest first; modules, or any callables (sample, timestep, ...) -> prediction,
            of one parameterisation, latent space, noise schedule and conditioning. They are used,
            not copied.
        fractions: share of the trajectory of each; at least 0, with sum 1.
        timesteps: see :meth:`set_timesteps`; may be given later.
        order: see :meth:`set_timesteps`.
        by: ``step``: shares of the number of steps; ``timestep``: of the range of the timesteps,
            for which ``set_timesteps`` is not needed.
        num_train_timesteps: T of the noise schedule, for ``by="timestep"``.

    Raises:
        RecipeError: fractions, rule or timesteps are illegal.

    Example:
        >>> small, large = (lambda x, t: x), (lambda x, t: 2 * x)
        >>> denoiser = StitchedDenoiser([small, large], (0.4, 0.6), timesteps=[9, 7, 5, 3, 1])
        >>> [float(denoiser(torch.ones(()), t)) for t in (9, 7, 5, 3, 1)]
        [1.0, 1.0, 2.0, 2.0, 2.0]
    """

    def __init__(
        self,
        denoisers: Sequence[nn.Module | Callable[..., Any]],
        fractions: Sequence[float],
        *,
        timesteps: Sequence[float] | Tensor | None = None,
        order: int = 1,
        by: str = "step",
        num_train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        if by not in RULES:
            raise RecipeError(f"Steps are shared out by step or by timestep, got {by!r}.")
        self.denoisers = nn.ModuleList(
            d if isinstance(d, nn.Module) else _Function(d) for d in denoisers
        )
        self.by, self.num_train_timesteps = by, num_train_timesteps
        self._steps: dict[float, int] = {}
        self._num_steps = 0
        self.set_fractions(fractions)
        if timesteps is not None:
            self.set_timesteps(timesteps, order)

    @property
    def fractions(self) -> tuple[float, ...]:
        """Share of the trajectory of each model."""
        return self._fractions

    def set_fractions(self, fractions: Sequence[float]) -> None:
        """Share the trajectory out anew; on the grid or off it.

        Raises:
            RecipeError: they are negative, do not sum to 1, or are not one a denoiser.
        """
        self._fractions = check_fractions(fractions, len(self.denoisers))

    def set_timesteps(self, timesteps: Sequence[float] | Tensor, order: int = 1) -> None:
        """Tell the timesteps of the trajectory, as after a scheduler's own ``set_timesteps``.

        Args:
            timesteps: that the denoiser will be called with, from noise to sample.
            order: calls of the model in one step of the solver: ``scheduler.order`` in diffusers.

        Raises:
            RecipeError: there are none.
        """
        listed = timesteps.tolist() if isinstance(timesteps, Tensor) else list(timesteps)
        self._steps = step_numbers(listed, order)
        self._num_steps = max(self._steps.values()) + 1

    def model_index(self, timestep: Tensor | float) -> int:
        """Number of the denoiser whose turn it is at a timestep, one or an equal one (B,).

        Raises:
            DataError: a batch mixes timesteps, or the timestep is none of the trajectory's.
        """
        return self._index_at(one_timestep(timestep), self._fractions)

    def _index_at(self, timestep: float, fractions: tuple[float, ...]) -> int:
        if self.by == "timestep":
            return timestep_allocation([timestep], fractions, self.num_train_timesteps)[0]
        if timestep not in self._steps:
            raise DataError(
                f"The timestep {timestep:g} is none of the {self._num_steps} steps of the "
                "trajectory; call set_timesteps with those of the scheduler first."
            )
        ends = step_boundaries(self._num_steps, fractions)
        return sum(end <= self._steps[timestep] for end in ends)

    def forward(self, sample: Any, timestep: Tensor | float, *args: Any, **cond: Any) -> Any:
        """Noisy sample (B, ...) and timestep -> what the denoiser in turn returns.

        Anything else is handed on as it is: with classifier-free guidance both halves of the batch
        go through the same denoiser.
        """
        return self.denoisers[self.model_index(timestep)](sample, timestep, *args, **cond)


def one_timestep(timestep: Tensor | float) -> float:
    """Read the one timestep of a batch.

    Args:
        timestep: a number, or a tensor () or (B,) of equal ones.

    Raises:
        DataError: the batch mixes timesteps.

    Example:
        >>> one_timestep(torch.tensor([981, 981]))
        981
    """
    if not isinstance(timestep, Tensor):
        return timestep
    values = sorted(set(timestep.flatten().tolist()))
    if len(values) != 1:
        raise DataError(
            f"A batch mixes the {len(values)} timesteps {values[:4]}; a trajectory is stitched one "
            "timestep at a time, so sample all inputs in step."
        )
    first: float = values[0]
    return first


@torch.no_grad()
def check_denoisers(
    denoisers: Sequence[Callable[..., Any]], sample: Tensor, timestep: Tensor | float, **cond: Any
) -> None:
    """Run every denoiser once and compare the shapes of what they predict.

    That they share a noise schedule and a parameterisation cannot be seen from outside; for
    diffusers, :func:`sartor.stitch.t_stitch.pipeline.stitched_pipeline` compares these too.

    Args:
        denoisers: smallest first.
        sample: a noisy sample (B, ...).
        timestep: one, or (B,).
        cond: conditioning, given to each.

    Raises:
        FamilyError: one does not take the inputs, or predicts another shape; it is named by number.
    """
    shapes = []
    for number, denoiser in enumerate(denoisers):
        modules = [denoiser] if isinstance(denoiser, nn.Module) else []
        try:
            with eval_mode(*modules):
                predicted = denoiser(sample, timestep, **cond)
        except Exception as error:  # a model may raise anything on a wrong shape
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise FamilyError(
                f"The denoiser {number} does not take a sample of shape {tuple(sample.shape)} "
                f"({reason}); give denoisers of one latent space and one conditioning."
            ) from error
        shapes.append(tuple(getattr(predicted, "sample", predicted).shape))
        if shapes[-1] != shapes[0]:
            raise FamilyError(
                f"The denoisers 0 and {number} predict shapes {shapes[0]} and {shapes[-1]}; give "
                "denoisers of one latent space and one kind of output."
            )
