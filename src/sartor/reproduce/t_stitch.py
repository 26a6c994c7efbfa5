"""T-Stitch: may a small denoiser take the early steps, and only the early ones?

Claim: a small model can take the first 40 % of the denoising steps of a large one at no loss of
quality, and the cost falls linearly. Controls: the small model takes the last steps instead; and
the sceptic's, the large model alone with as many fewer steps as cost the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sartor.data.generation import digit_vectors, energy_distance
from sartor.fit.progress import each
from sartor.fit.threads import training_threads
from sartor.measure import count_flops
from sartor.nn.t_stitch.ddim import DDIMSampler
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.mosaic import mosaic
from sartor.reproduce.t_stitch_training import (
    STEPS,
    cpu_seconds,
    distance,
    switched,
    trained_pair,
)
from sartor.reproduce.t_stitch_verdict import (
    CLAIMED,
    SHARES,
    PairScores,
    checks,
    losses,
    notes,
    rows,
    time_rows,
)
from sartor.stitch.t_stitch.sampler import stitch_samplers

__all__ = ["run"]

SEEDS = (0, 1, 2)
TRAINING, SAMPLES, QUICK_SAMPLES, SHOWN = 2000, 1797, 597, 14
TIMED, ROUNDS = 256, 7


def run(quick: bool = False) -> Evidence:
    """Train the pairs, sample, measure and judge.

    Args:
        quick: one seed and a third of the samples: a smoke test.
    """
    started = time.perf_counter()
    seeds, samples = (SEEDS[:1], QUICK_SAMPLES) if quick else (SEEDS, SAMPLES)
    with training_threads(params=0):
        results, pairs = [], []
        for seed in each(seeds):
            pair = trained_pair(digit_vectors(seed=seed), seed, TRAINING)
            results.append(_run_seed(pair, seed, samples))
            pairs.append(pair)
        noise = _noise(TIMED, seed=0)
        times = cpu_seconds(stitch_samplers(pairs[0], noise), noise, rounds=ROUNDS)
        picture = _picture(pairs[0])
    asked = checks(results, times)
    return Evidence(
        slug="t-stitch",
        claim="A small denoiser can take the first 40 % of a large one's steps at no loss of "
        "quality, and the cost falls linearly with its share.",
        measure=f"energy distance to held-out digits (lower is better), small model for {CLAIMED:g}"
        " of the steps against the large one alone",
        baseline=statistics.mean(r.first[0.0] for r in results),
        measured=statistics.mean(r.first[CLAIMED] for r in results),
        checks=asked,
        tables={
            "Energy distance to held-out digits, mean over seeds (range)": rows(results),
            "CPU time of a sample, seed 0": time_rows(times),
        },
        pictures={"samples": picture},
        losses=losses(results),
        notes=notes(results, TRAINING, samples),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def _run_seed(pair: Mapping[str, DDIMSampler], seed: int, samples: int) -> PairScores:
    small, large = pair["small"], pair["large"]
    digits, noise = digit_vectors(seed=seed), _noise(samples, seed)
    net = stitch_samplers(pair, noise)
    first, last, changed = {}, {}, 0
    with torch.inference_mode():
        for share in SHARES:
            net.stitcher.set_fractions((share, 1 - share))
            made = net(noise)
            first[share] = energy_distance(made, digits.validation)
            if share in (0.0, 1.0):
                changed += int((made != (small if share else large)(noise)).any(dim=1).sum())
            last[share] = distance(switched(large, small, 1 - share), noise, digits.validation)
    flops = {name: count_flops(sampler, noise) for name, sampler in pair.items()}
    stitched = switched(small, large, CLAIMED)
    flops["stitched"] = count_flops(stitched, noise)
    steps = {s: _affordable(s, flops) for s in SHARES}
    fewer = {s: distance(_shortened(large, steps[s]), noise, digits.validation) for s in SHARES}
    real = energy_distance(digits.train, digits.validation)
    return PairScores(
        first=first,
        last=last,
        fewer=fewer,
        steps=steps,
        changed=changed,
        flops=flops,
        real=real,
    )


def _affordable(share: float, flops: Mapping[str, int]) -> int:
    """Steps of the large model that cost at most what the stitched trajectory costs."""
    cost = share * flops["small"] + (1 - share) * flops["large"]
    return max(int(STEPS * cost / flops["large"] + 1e-9), 1)


def _shortened(sampler: DDIMSampler, steps: int) -> DDIMSampler:
    return DDIMSampler(sampler.denoiser, replace(sampler.schedule, num_steps=steps)).eval()


def _noise(count: int, seed: int) -> Tensor:
    """Drawn apart from all training."""
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(1000 + seed))


def _picture(pair: Mapping[str, DDIMSampler]) -> str:
    noise, digits = _noise(SHOWN, seed=0), digit_vectors(seed=0)
    shown = {"held-out digits": digits.validation[:SHOWN]}
    with torch.inference_mode():
        for share in SHARES:
            shown[f"small first, {share:.0%}"] = switched(pair["small"], pair["large"], share)(
                noise
            )
        shown[f"small last, {CLAIMED:.0%}"] = switched(pair["large"], pair["small"], 1 - CLAIMED)(
            noise
        )
    pictures = {label: samples.view(-1, 8, 8) for label, samples in shown.items()}
    return mosaic(pictures, "T-Stitch: the same noise, other shares of small steps")
