"""T-Stitch: may a small denoiser take the early steps, and only the early ones?

Claim: a small model can take the first 40 % of the denoising steps of a large one at no loss of
quality, and the cost falls linearly. Controls: the small model takes the last steps instead; and
the sceptic's, the large model alone with as many fewer steps as cost the same.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sartor.data.generation import digit_vectors, energy_distance
from sartor.fit.threads import training_threads
from sartor.measure import count_flops
from sartor.nn.ddim import DDIMSampler
from sartor.reproduce.evidence import Check, Evidence, Row
from sartor.reproduce.mosaic import mosaic
from sartor.reproduce.scores import r_squared
from sartor.reproduce.t_stitch_training import (
    STEPS,
    cpu_seconds,
    distance,
    switched,
    trained_pair,
)
from sartor.stitch.t_stitch_sampler import stitch_samplers

__all__ = ["run"]

SEEDS = (0, 1, 2)
SHARES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
#: the share that the claim is about, and the card's pass rules
CLAIMED, LOSS, FACTOR, LINEAR = 0.4, 0.02, 5.0, 0.98
SAMPLES, SHOWN = 1797, 14
TIMED, ROUNDS = 256, 7


@dataclass(frozen=True, kw_only=True)
class _Seed:
    """One pair: share of the small model -> distance to the held-out digits, of three kinds."""

    first: Mapping[float, float]
    last: Mapping[float, float]
    fewer: Mapping[float, float]
    steps: Mapping[float, int]
    changed: int
    flops: Mapping[str, int]
    real: float


def run(quick: bool = False) -> Evidence:
    """Train the pairs, sample, measure and judge.

    Args:
        quick: one seed, a quarter of the training, fewer samples: a smoke test.
    """
    started = time.perf_counter()
    seeds, training, samples = (SEEDS[:1], 500, 597) if quick else (SEEDS, 2000, SAMPLES)
    with training_threads(params=0):
        results, pairs = [], []
        for seed in seeds:
            pair = trained_pair(digit_vectors(seed=seed), seed, training)
            results.append(_run_seed(pair, seed, samples))
            pairs.append(pair)
        noise = _noise(TIMED, seed=0)
        times = cpu_seconds(stitch_samplers(pairs[0], noise), noise, rounds=ROUNDS)
        picture = _picture(pairs[0])
    checks = _checks(results, times)
    return Evidence(
        slug="t-stitch",
        claim="A small denoiser can take the first 40 % of a large one's steps at no loss of "
        "quality, and the cost falls linearly with its share.",
        measure=f"energy distance to held-out digits (lower is better), small model for {CLAIMED:g}"
        " of the steps against the large one alone",
        baseline=statistics.mean(r.first[0.0] for r in results),
        measured=statistics.mean(r.first[CLAIMED] for r in results),
        checks=checks,
        tables={
            "Energy distance to held-out digits, mean over seeds (range)": _rows(results),
            "CPU time of a sample, seed 0": _time_rows(times),
        },
        pictures={"samples": picture},
        losses=_losses(checks, results),
        notes=_notes(results, training, samples),
        seeds=seeds,
        seconds=time.perf_counter() - started,
    )


def _run_seed(pair: Mapping[str, DDIMSampler], seed: int, samples: int) -> _Seed:
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
    return _Seed(
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


def _checks(results: Sequence[_Seed], times: Mapping[float, float]) -> tuple[Check, ...]:
    """The card's pass rules on the worst seed, then the sceptic's question."""
    later = [share for share in SHARES if share >= CLAIMED]
    rises = [r.first[b] - r.first[a] for r in results for a, b in itertools.pairwise(later)]
    expected = [CLAIMED * r.flops["small"] + (1 - CLAIMED) * r.flops["large"] for r in results]
    off = [abs(r.flops["stitched"] - e) for r, e in zip(results, expected, strict=True)]
    return (
        Check(
            asked=f"distance that the small model's first {CLAIMED:g} of the steps adds, worst "
            "seed",
            measured=max(r.first[CLAIMED] - r.first[0.0] for r in results),
            limit=LOSS,
            relation="<=",
        ),
        Check(
            asked=f"distance with the small model last over that with it first, at {CLAIMED:g}, "
            "worst seed",
            measured=min(r.last[CLAIMED] / r.first[CLAIMED] for r in results),
            limit=FACTOR,
        ),
        Check(
            asked=f"least rise of the distance between neighbouring shares from {CLAIMED:g} on",
            measured=min(rises),
            limit=0.0,
        ),
        Check(
            asked=f"FLOPs at {CLAIMED:g} away from {CLAIMED:g} small + {1 - CLAIMED:g} large",
            measured=max(off),
            limit=0.5,
            relation="<=",
        ),
        Check(
            asked="samples of the pure schedules that are not the single model's bit for bit",
            measured=sum(r.changed for r in results),
            limit=0,
            relation="<=",
        ),
        Check(
            asked="R^2 of CPU time as a line in the share",
            measured=r_squared(list(times), list(times.values())),
            limit=LINEAR,
        ),
        Check(
            asked="distance of the large model alone with steps that cost the same, minus that "
            f"of stitching, at {CLAIMED:g}, mean over seeds",
            measured=statistics.mean(r.fewer[CLAIMED] - r.first[CLAIMED] for r in results),
            limit=0.0,
            decides=False,
        ),
    )


def _rows(results: Sequence[_Seed]) -> list[Row]:
    def spread(values: Sequence[float]) -> str:
        low, high = min(values), max(values)
        return f"{statistics.mean(values):.3f} ({low:.3f}-{high:.3f})"

    return [
        {
            "share of small steps": share,
            "small first": spread([r.first[share] for r in results]),
            "small last": spread([r.last[share] for r in results]),
            "large alone, equal cost": spread([r.fewer[share] for r in results]),
            "its steps": results[0].steps[share],
            "FLOPs": f"{_cost(results[0], share):.3f}",
        }
        for share in SHARES
    ]


def _cost(result: _Seed, share: float) -> float:
    """Relative to the large model alone."""
    return share * result.flops["small"] / result.flops["large"] + 1 - share


def _time_rows(times: Mapping[float, float]) -> list[Row]:
    ends = times[0.0], times[1.0]
    return [
        {
            "share of small steps": share,
            "ms a sample": round(1e3 * taken, 4),
            "predicted from the ends": round(1e3 * (share * ends[1] + (1 - share) * ends[0]), 4),
        }
        for share, taken in times.items()
    ]


def _picture(pair: Mapping[str, DDIMSampler]) -> str:
    noise, digits = _noise(SHOWN, seed=0), digit_vectors(seed=0)
    rows = {"held-out digits": digits.validation[:SHOWN]}
    with torch.inference_mode():
        for share in SHARES:
            rows[f"small first, {share:.0%}"] = switched(pair["small"], pair["large"], share)(noise)
        rows[f"small last, {CLAIMED:.0%}"] = switched(pair["large"], pair["small"], 1 - CLAIMED)(
            noise
        )
    pictures = {label: samples.view(-1, 8, 8) for label, samples in rows.items()}
    return mosaic(pictures, "T-Stitch: the same noise, other shares of small steps")


def _losses(checks: Sequence[Check], results: Sequence[_Seed]) -> tuple[str, ...]:
    lost = [
        f"{c.asked}: {c.measured:.4g}, asked {c.relation} {c.limit:g}."
        for c in checks
        if not c.passed
    ]
    for share in SHARES:
        worse = statistics.mean(r.first[share] - r.first[0.0] for r in results)
        if worse > LOSS:
            lost.append(
                f"With the small model for {share:.0%} of the steps the distance is {worse:.3f} "
                "larger than that of the large model alone."
            )
    behind = {
        share: statistics.mean(r.first[share] - r.fewer[share] for r in results)
        for share in SHARES[1:-1]
    }
    values = [r.first[0.0] for r in results]
    noise = max(max(values) - min(values), 0.005)  # one seed has no range
    named = ", ".join(f"{gap:.3f} at {share:.0%}" for share, gap in behind.items() if gap > noise)
    if named:
        lost.append(
            f"At equal cost the large model alone with fewer steps is nearer to the digits: {named}"
            "."
        )
    even = ", ".join(f"{share:.0%}" for share, gap in behind.items() if abs(gap) <= noise)
    if even:
        lost.append(
            f"At {even}, stitching and the large model alone with fewer steps differ by less than "
            f"the seeds do ({noise:.3f}): at this scale fewer steps are as good a way to save."
        )
    return tuple(lost)


def _notes(results: Sequence[_Seed], training: int, samples: int) -> tuple[str, ...]:
    real = statistics.mean(r.real for r in results)
    return (
        f"8 x 8 digits of scikit-learn; residual MLPs of width 16 and depth 1, and 128 and 3, "
        f"{training} steps of AdamW on 1000 digits; DDIM with {STEPS} steps, {samples} samples "
        "against 597 digits that no training saw.",
        f"The training digits themselves are {real:.3f} away from the held-out ones.",
        "Settings are usual ones; learning rate and sampler were looked at on the selection split "
        "of one seed, nothing on the held-out digits.",
        "CPU time is that of the thread, so that other programs on the machine do not count.",
        "FID, Inception Score, prompts and GPUs are not shown here.",
    )
