"""Time of a sample by T-Stitch: linear in the share of steps that the small denoiser takes.

Claim: over shares 0, 0.1, ..., 1 the wall time of a sample is a straight line with R^2 of at least
0.98, and a share of 0.4 takes at most 1.05 times what the line between the two pure schedules says;
all shares timed in turn in one run, in eager mode on one thread. Times are medians over rounds; the
ratio to the line is the median of the ratios within a round, as what disturbs a round disturbs its
calls alike. Baseline: the
large denoiser alone, at the same number of steps. Writes benchmarks/results/t_stitch.json.
"""

import argparse
import json
import statistics
import time
from datetime import date
from pathlib import Path

import torch

from sartor.core.files import write_json
from sartor.measure import environment
from sartor.nn.sources import seeded
from sartor.nn.t_stitch.ddim import vector_sampler
from sartor.reproduce.scores import r_squared
from sartor.stitch.t_stitch.sampler import StitchedSampler, stitch_samplers

R_SQUARED, OVER_LINE, SHARE = 0.98, 1.05, 0.4
RESULTS = Path(__file__).parents[1] / "results" / "t_stitch.json"
BATCH, STEPS, SEED = 256, 50, 0
#: the pair of the evidence, and one whose ratio of costs is that of DiT-B to DiT-XL
PAIRS = {
    "widths 16 and 128, depths 1 and 3": ((16, 1), (128, 3)),
    "widths 128 and 256, depths 2 and 3": ((128, 2), (256, 3)),
}


def made(shapes: tuple[tuple[int, int], ...]) -> StitchedSampler:
    with seeded(SEED):
        samplers = {
            f"w{width}": vector_sampler(width=width, depth=depth, num_steps=STEPS)
            for width, depth in shapes
        }
    return stitch_samplers(samplers, torch.zeros(1, 64))


def timed(net: StitchedSampler, noise: torch.Tensor, rounds: int) -> dict[float, list[float]]:
    """Milliseconds of one sample in each round; the order turns round every other time."""
    order = list(range(net.num_configs))
    times: dict[float, list[float]] = {config.fractions[0]: [] for config in net.configs}
    for number in range(-1, rounds):
        for index in order if number % 2 else reversed(order):
            net.set_config(index)
            started = time.perf_counter()
            net(noise)
            if number >= 0:  # the first round warms up
                taken = 1e3 * (time.perf_counter() - started) / len(noise)
                times[net.configs[index].fractions[0]].append(taken)
    return dict(sorted(times.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    noise = torch.randn(BATCH, 64, generator=torch.Generator().manual_seed(SEED))
    rows = []
    for name, shapes in PAIRS.items():
        with torch.inference_mode():
            taken = timed(made(shapes), noise, rounds)
        times = {share: statistics.median(values) for share, values in taken.items()}
        fit = r_squared(list(times), list(times.values()))
        ends = zip(taken[SHARE], taken[1.0], taken[0.0], strict=True)
        over = statistics.median(t / (SHARE * s + (1 - SHARE) * z) for t, s, z in ends)
        row = {
            "pair": name,
            "ms_a_sample": {f"{share:g}": value for share, value in times.items()},
            "r_squared": fit,
            "over_line": over,
            "faster_than_large_alone": times[0.0] / times[SHARE],
            "passed": fit >= R_SQUARED and over <= OVER_LINE,
        }
        rows.append(row)
        print(json.dumps(row, indent=1))
    write_json(
        RESULTS,
        {
            "claim": f"R^2 >= {R_SQUARED}; share {SHARE} <= {OVER_LINE} x the line of the ends",
            "baseline": "the large denoiser alone, same steps",
            "date": date.today().isoformat(),
            "threads": 1,
            "batch": BATCH,
            "steps": STEPS,
            "rounds": rounds,
            "seed": SEED,
            "runtime": "eager",
            "rows": rows,
            "passed": all(row["passed"] for row in rows),
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
