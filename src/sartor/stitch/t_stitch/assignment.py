"""T-Stitch: small denoisers take the early steps of a diffusion trajectory, large ones the rest.

Source: Pan, Zhuang, Huang, Nie, Yu, Xiao, Cai, Anandkumar, T-Stitch: Accelerating Sampling in
    Pre-trained Diffusion Models with Trajectory Stitching, 2024, arXiv 2402.14167. Deviations: the
    stitched denoiser is a function of the timestep and counts no calls, so that guidance in two
    calls, second-order solvers and repeated runs need no care; all calls at one timestep are
    answered by one model. Boundaries: see :mod:`sartor.stitch.t_stitch.trajectory`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sartor.core.elastic import Elastic
from sartor.core.errors import FamilyError, RecipeError
from sartor.measure import count_flops
from sartor.stitch.t_stitch.denoiser import StitchedDenoiser
from sartor.stitch.t_stitch.trajectory import fraction_grid

__all__ = ["TrajectoryConfig", "TrajectoryStitcher"]


@dataclass(frozen=True)
class TrajectoryConfig:
    """Share of the trajectory of each model, smallest first.

    Example:
        >>> TrajectoryConfig((0.4, 0.6)).name
        't0.4-0.6'
    """

    fractions: tuple[float, ...]

    @property
    def name(self) -> str:
        """Short and unique on a grid."""
        return "t" + "-".join(f"{fraction:g}" for fraction in self.fractions)


class TrajectoryStitcher(StitchedDenoiser, Elastic):
    """A stitched denoiser whose fractions are chosen from a grid at run time.

    Args:
        denoisers: smallest first; see :class:`StitchedDenoiser`.
        fractions: to begin with; default: the largest alone.
        grid: distance of the fractions among ``configs``.
        settings: ``timesteps``, ``order``, ``by``, ``num_train_timesteps``; see
            :class:`StitchedDenoiser`.

    Example:
        >>> denoisers = [nn.Identity(), nn.Identity()]
        >>> stitcher = TrajectoryStitcher(denoisers, timesteps=[900, 500, 100], grid=0.5)
        >>> [config.name for config in stitcher.configs]
        ['t1-0', 't0.5-0.5', 't0-1']
    """

    def __init__(
        self,
        denoisers: Sequence[nn.Module | Callable[..., Any]],
        fractions: Sequence[float] | None = None,
        *,
        grid: float = 0.1,
        **settings: Any,
    ) -> None:
        rows = fraction_grid(len(denoisers), grid)
        super().__init__(denoisers, rows[-1] if fractions is None else fractions, **settings)
        self._configs = tuple(TrajectoryConfig(row) for row in rows)
        self._costs: tuple[int, ...] = ()

    @property
    def configs(self) -> tuple[TrajectoryConfig, ...]:
        """The grid, from the smallest model alone to the largest alone."""
        return self._configs

    @property
    def num_configs(self) -> int:
        """Number of configurations."""
        return len(self._configs)

    def config(self, index: int) -> TrajectoryConfig:
        """Configuration ``index``.

        Raises:
            FamilyError: there is no such configuration.
        """
        if not 0 <= index < len(self._configs):
            raise FamilyError(
                f"There is no configuration {index}; choose among 0 to {len(self._configs) - 1}."
            )
        return self._configs[index]

    def set_config(self, index: int) -> None:
        """Choose a configuration; nothing is copied or allocated.

        Raises:
            FamilyError: there is no such configuration.
        """
        self._fractions = self.config(index).fractions

    def count_costs(self, sample: Tensor, timestep: Tensor | float, **cond: Any) -> None:
        """Count the FLOPs of one call of each denoiser, for :meth:`flops`.

        Args:
            sample: a noisy sample (1, ...).
            timestep: any.
            cond: conditioning of one sample.
        """
        self._costs = tuple(
            count_flops(_Called(denoiser, timestep, cond), sample) for denoiser in self.denoisers
        )

    def flops(self, index: int) -> int:
        """FLOPs of a whole trajectory of one sample, one call a step, multiply and add apart.

        Raises:
            FamilyError: there is no such configuration.
            RecipeError: the costs were not counted, or the timesteps are not known.
        """
        fractions = self.config(index).fractions
        if not self._costs or not self._steps:
            raise RecipeError(
                "The FLOPs of a trajectory need the cost of a call and the timesteps; call "
                "count_costs and set_timesteps first."
            )
        return sum(self._costs[self._index_at(t, fractions)] for t in self._steps)

    def extract(self, index: int) -> nn.Module:
        """Copy configuration ``index`` out: a denoiser alone, or a plain stitched one that has only
        the denoisers with a share.

        Raises:
            FamilyError: there is no such configuration.
        """
        fractions = self.config(index).fractions
        used = [k for k, fraction in enumerate(fractions) if fraction > 0]
        copies = [copy.deepcopy(self.denoisers[k]) for k in used]
        if len(used) == 1:
            return copies[0]
        plain = StitchedDenoiser(
            copies,
            [fractions[k] for k in used],
            by=self.by,
            num_train_timesteps=self.num_train_timesteps,
        )
        plain._steps, plain._num_steps = dict(self._steps), self._num_steps
        return plain.train(self.training)


class _Called(nn.Module):
    """A denoiser at one timestep: (sample) -> prediction."""

    def __init__(self, denoiser: nn.Module, timestep: Tensor | float, cond: Any) -> None:
        super().__init__()
        self.denoiser, self.timestep, self.cond = denoiser, timestep, cond

    def forward(self, sample: Tensor) -> Any:
        return self.denoiser(sample, self.timestep, **self.cond)
