"""The models of T-Stitch's evidence: a small and a large denoiser of digits, trained here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sartor.data.generation import DigitVectors, energy_distance
from sartor.nn.sources import seeded
from sartor.nn.t_stitch.ddim import DDIMSampler, DDIMSchedule
from sartor.nn.t_stitch.mlp_denoiser import MLPDenoiser
from sartor.stitch.t_stitch.denoiser import StitchedDenoiser
from sartor.stitch.t_stitch.sampler import StitchedSampler

__all__ = ["SHAPES", "STEPS", "cpu_seconds", "distance", "switched", "trained_pair"]

#: width and depth of the two, the card's small one and its large one at half the width
SHAPES = {"small": (16, 1), "large": (128, 3)}
#: denoising steps
STEPS = 50
BATCH, LR, EMA_DECAY = 256, 1e-3, 0.995


def trained_pair(digits: DigitVectors, seed: int, steps: int) -> dict[str, DDIMSampler]:
    """Train both denoisers on the training digits with the same steps; samplers around them.

    Args:
        digits: the training split is read.
        seed: of weights, batches and noise.
        steps: of AdamW.
    """
    samplers = {}
    for name, (width, depth) in SHAPES.items():
        with seeded(seed):
            denoiser = _trained(MLPDenoiser(width=width, depth=depth), digits.train, steps)
        samplers[name] = DDIMSampler(denoiser, DDIMSchedule(num_steps=STEPS)).eval()
    return samplers


def _trained(model: nn.Module, vectors: Tensor, steps: int) -> nn.Module:
    """Predict the noise at uniform timesteps; the averaged weights are kept."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    alphas = DDIMSchedule().alphas_cumprod().float()  # (T,)
    for _ in range(steps):
        clean = vectors[torch.randint(len(vectors), (BATCH,))]  # (B, D)
        timesteps = torch.randint(len(alphas), (BATCH,))
        noise = torch.randn_like(clean)
        alpha = alphas[timesteps].unsqueeze(1)  # (B, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        loss = nn.functional.mse_loss(model(noisy, timesteps), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(model)
    kept: nn.Module = averaged.module
    return kept.requires_grad_(False).eval()


def switched(first: DDIMSampler, then: DDIMSampler, share: float) -> DDIMSampler:
    """A sampler whose first ``share`` of the steps is taken by one denoiser, the rest by another.

    Args:
        first: takes the noisy steps.
        then: takes the rest; its schedule counts.
        share: in [0, 1].
    """
    denoisers = [first.denoiser, then.denoiser]
    stitched = StitchedDenoiser(denoisers, (share, 1 - share), timesteps=then.timesteps)
    return DDIMSampler(stitched, then.schedule).eval()


@torch.inference_mode()
def distance(sampler: nn.Module, noise: Tensor, real: Tensor) -> float:
    """Energy distance between what a sampler makes of the noise and real digits."""
    return energy_distance(sampler(noise), real)


@torch.inference_mode()
def cpu_seconds(sampler: StitchedSampler, noise: Tensor, *, rounds: int) -> Mapping[float, float]:
    """CPU seconds a sample for each share of small steps, all measured in turn in one run.

    Args:
        sampler: of a small and a large denoiser; its configurations are visited.
        noise: inputs (B, ...) of one call.
        rounds: timings of each configuration, at least 1, after one that warms up.

    Returns:
        Share of the small denoiser -> median over rounds.
    """
    times: dict[float, list[float]] = {c.fractions[0]: [] for c in sampler.configs}
    for number in range(rounds + 1):
        for index, config in enumerate(sampler.configs):
            sampler.set_config(index)
            started = time.thread_time()
            sampler(noise)
            if number:
                times[config.fractions[0]].append((time.thread_time() - started) / len(noise))
    return {share: statistics.median(taken) for share, taken in sorted(times.items())}
