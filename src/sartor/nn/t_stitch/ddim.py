"""DDIM: a deterministic sampler as a module, from noise to samples, around any denoiser.

Source: Song, Meng, Ermon, Denoising Diffusion Implicit Models, ICLR 2021, arXiv 2010.02502, eq. 12
    with sigma 0. Deviation: the estimate of the clean sample is clamped, as is usual for data of
    known range, and the predicted noise is made to agree with it (``use_clipped_model_output`` in
    diffusers).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sartor.core.errors import RecipeError
from sartor.nn.t_stitch.mlp_denoiser import MLPDenoiser

__all__ = ["DDIMSampler", "DDIMSchedule", "respaced_timesteps", "vector_sampler"]


def respaced_timesteps(num_steps: int, num_train_timesteps: int = 1000) -> list[int]:
    """Spread steps evenly over the training timesteps, the last and 0 included, from high to low.

    Args:
        num_steps: from 1 to ``num_train_timesteps``.
        num_train_timesteps: of the noise schedule.

    Raises:
        RecipeError: there are fewer steps than one, or more than timesteps.

    Example:
        >>> respaced_timesteps(4)
        [999, 666, 333, 0]
    """
    if not 1 <= num_steps <= num_train_timesteps:
        raise RecipeError(
            f"A sampler takes 1 to {num_train_timesteps} steps, got {num_steps}; choose fewer."
            if num_steps > 0
            else f"A sampler takes 1 to {num_train_timesteps} steps, got {num_steps}."
        )
    last = num_train_timesteps - 1
    if num_steps == 1:
        return [last]
    return [round(i * last / (num_steps - 1)) for i in reversed(range(num_steps))]


@dataclass(frozen=True, kw_only=True)
class DDIMSchedule:
    """Noise schedule and steps; the betas rise linearly.

    Attributes:
        num_steps: denoising steps, from 1 to ``num_train_timesteps``.
        num_train_timesteps: T, on which the denoiser was trained.
        beta_start: variance added at the first timestep, in (0, 1).
        beta_end: at the last, in (0, 1).
        clip: the clean sample is clamped to [-clip, clip]; above 0.

    Raises:
        RecipeError: a number is out of range.
    """

    num_steps: int = 50
    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    clip: float = 1.0

    def __post_init__(self) -> None:
        respaced_timesteps(self.num_steps, self.num_train_timesteps)
        if not (0 < self.beta_start < 1 and 0 < self.beta_end < 1 and self.clip > 0):
            raise RecipeError(
                "A noise schedule takes betas in (0, 1) and a clip above 0, got "
                f"{self.beta_start}, {self.beta_end} and {self.clip}."
            )

    @property
    def timesteps(self) -> list[int]:
        """The timesteps visited, from high to low."""
        return respaced_timesteps(self.num_steps, self.num_train_timesteps)

    def alphas_cumprod(self) -> Tensor:
        """Share of the signal's variance left at each timestep: (T,), float64."""
        betas = torch.linspace(
            self.beta_start, self.beta_end, self.num_train_timesteps, dtype=torch.float64
        )
        return torch.cumprod(1 - betas, dim=0)


class DDIMSampler(nn.Module):
    """Maps noise to samples by ``schedule.num_steps`` calls of the denoiser.

    As its input is the noise itself, it has no randomness of its own; the loop unrolls, so it
    exports like any module.

    Args:
        denoiser: (sample (B, ...), timestep as an int) -> predicted noise (B, ...).
        schedule: that the denoiser was trained with.

    Example:
        >>> sampler = DDIMSampler(MLPDenoiser(width=8, depth=1), DDIMSchedule(num_steps=5))
        >>> sampler(torch.randn(3, 64)).shape
        torch.Size([3, 64])
    """

    def __init__(self, denoiser: nn.Module, schedule: DDIMSchedule | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule or DDIMSchedule()
        self.timesteps = self.schedule.timesteps
        alphas = self.schedule.alphas_cumprod()
        self._alphas = [*(float(alphas[t]) for t in self.timesteps), 1.0]

    def forward(self, noise: Tensor) -> Tensor:
        """Standard normal noise (B, ...) -> samples (B, ...) in [-clip, clip]."""
        sample, clip = noise, self.schedule.clip
        for step, timestep in enumerate(self.timesteps):
            now, following = self._alphas[step], self._alphas[step + 1]
            epsilon = self.denoiser(sample, timestep)  # (B, ...)
            clean = ((sample - (1 - now) ** 0.5 * epsilon) / now**0.5).clamp(-clip, clip)
            epsilon = (sample - now**0.5 * clean) / (1 - now) ** 0.5  # that of the clamped estimate
            sample = following**0.5 * clean + (1 - following) ** 0.5 * epsilon
        return sample


def vector_sampler(
    *, width: int, depth: int, features: int = 64, num_steps: int = 50
) -> DDIMSampler:
    """Make an untrained sampler of vectors: the factory that a family's recipe names.

    Args:
        width: of the :class:`~sartor.nn.t_stitch.mlp_denoiser.MLPDenoiser`.
        depth: its number of blocks.
        features: length of a vector.
        num_steps: denoising steps.
    """
    denoiser = MLPDenoiser(width=width, depth=depth, features=features)
    return DDIMSampler(denoiser, DDIMSchedule(num_steps=num_steps))
