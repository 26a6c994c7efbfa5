"""T-Stitch around whole samplers: noise in, samples out, with a share of small steps to choose.

A sampler is any module that calls ``self.denoiser(sample, timestep)`` at each of
``self.timesteps``, such as :class:`sartor.nn.t_stitch.ddim.DDIMSampler`. What stitching a
trajectory costs and gives is seen on the whole of it, so this is the form in which ``fit`` takes
it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sartor.core.elastic import Elastic
from sartor.core.errors import FamilyError
from sartor.stitch.t_stitch.assignment import TrajectoryConfig, TrajectoryStitcher
from sartor.stitch.t_stitch.denoiser import check_denoisers

__all__ = ["StitchedSampler", "stitch_samplers"]


class StitchedSampler(Elastic):
    """One sampler with the denoisers of several; ``set_config`` chooses their shares.

    Args:
        sampler: whose ``denoiser`` is a
            :class:`~sartor.stitch.t_stitch.assignment.TrajectoryStitcher` that knows its timesteps
            and costs.
    """

    def __init__(self, sampler: nn.Module) -> None:
        super().__init__()
        self.sampler = sampler

    @property
    def stitcher(self) -> TrajectoryStitcher:
        """The denoiser inside."""
        stitcher: Any = self.sampler.denoiser
        assert isinstance(stitcher, TrajectoryStitcher)
        return stitcher

    @property
    def configs(self) -> tuple[TrajectoryConfig, ...]:
        """The grid of fractions, from the smallest model alone to the largest alone."""
        return self.stitcher.configs

    @property
    def num_configs(self) -> int:
        """Number of configurations."""
        return self.stitcher.num_configs

    def set_config(self, index: int) -> None:
        """Choose a configuration; nothing is copied or allocated.

        Raises:
            FamilyError: there is no such configuration.
        """
        self.stitcher.set_config(index)

    def forward(self, noise: Tensor) -> Tensor:
        """Noise (B, ...) -> samples (B, ...)."""
        samples: Tensor = self.sampler(noise)
        return samples

    def flops(self, index: int) -> int:
        """FLOPs of one sample, multiply and add counted apart.

        Raises:
            FamilyError: there is no such configuration.
        """
        return self.stitcher.flops(index)

    def extract(self, index: int) -> nn.Module:
        """Copy configuration ``index`` out as a plain sampler with only the denoisers it needs.

        Raises:
            FamilyError: there is no such configuration.
        """
        plain = self.stitcher.extract(index)
        return copy.deepcopy(self.sampler, {id(self.stitcher): plain})


def stitch_samplers(
    samplers: Mapping[str, nn.Module], example: Tensor, *, grid: float = 0.1
) -> StitchedSampler:
    """Stitch copies of samplers that differ in their denoisers alone.

    Args:
        samplers: name -> sampler, smallest first; each has a ``denoiser``, the same ``timesteps``
            and, if it has one, an equal ``schedule``.
        example: noise (B >= 1, ...) that they take.
        grid: distance of the fractions to choose from.

    Raises:
        FamilyError: names the sampler that has no denoiser, or another schedule or kind than the
            last one, or that does not take the noise.

    Example:
        >>> import torch
        >>> from sartor.nn.t_stitch.ddim import vector_sampler
        >>> samplers = {f"w{w}": vector_sampler(width=w, depth=1, num_steps=10) for w in (4, 8)}
        >>> net = stitch_samplers(samplers, torch.randn(1, 64))
        >>> net.set_config(6)  # the small one takes 4 of 10 steps
        >>> net.configs[6].fractions, net(torch.randn(2, 64)).shape
        ((0.4, 0.6), torch.Size([2, 64]))
    """
    if not samplers:
        raise FamilyError("There is no sampler to stitch; give at least one.")
    last = list(samplers)[-1]
    for name, sampler in samplers.items():
        _check_alike(name, sampler, last, samplers[last])
    denoisers: list[Any] = [copy.deepcopy(sampler.denoiser) for sampler in samplers.values()]
    base: Any = samplers[last]
    timesteps = list(base.timesteps)
    check_denoisers(denoisers, example[:1], timesteps[0])
    stitcher = TrajectoryStitcher(denoisers, timesteps=timesteps, grid=grid)
    stitcher.count_costs(example[:1], timesteps[0])
    return StitchedSampler(copy.deepcopy(base, {id(base.denoiser): stitcher})).eval()


def _check_alike(name: str, sampler: Any, last: str, other: Any) -> None:
    if not isinstance(getattr(sampler, "denoiser", None), nn.Module) or not hasattr(
        sampler, "timesteps"
    ):
        raise FamilyError(
            f"The model {name!r} ({type(sampler).__name__}) is no sampler with a denoiser and "
            "timesteps; T-Stitch takes samplers such as sartor.nn.t_stitch.ddim.DDIMSampler."
        )
    if type(sampler) is not type(other) or list(sampler.timesteps) != list(other.timesteps):
        raise FamilyError(
            f"The samplers {name!r} and {last!r} visit other timesteps or are of other kinds; give "
            "samplers that differ in their denoisers alone."
        )
    if getattr(sampler, "schedule", None) != getattr(other, "schedule", None):
        raise FamilyError(
            f"The samplers {name!r} and {last!r} have the noise schedules {sampler.schedule} and "
            f"{other.schedule}; give denoisers that were trained with one schedule."
        )
