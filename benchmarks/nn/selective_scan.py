"""The selective scan in chunks against the sequential loop and against peers.

Claim: forward and backward together, at length 1024, the chunked form is at least 5 times as fast
as the sequential one, for one sample of 64 to 256 channels and four of 64, with a state of 16.
Measured beside it: the forward pass alone, and other sizes up to that of VMRNN's blocks, where one
step of the loop is work enough by itself and the gain is smaller. Peers that are installed join:
the loop that Mamba models of transformers run without kernels, and mambapy's parallel scan. Every
round runs all forms one after another; what counts is the median of the rounds' ratios. Writes
benchmarks/results/selective_scan.json.
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.core.files import write_json
from sartor.measure import environment
from sartor.nn import selective_scan

RESULTS = Path(__file__).parents[1] / "results" / "selective_scan.json"
STATE, SEED, LENGTH, WIDTH, FASTER = 16, 0, 1024, 256, 5.0
#: length, batch, channels, groups
SIZES = (
    (1024, 1, 64, 1),
    (1024, 1, 128, 1),
    (1024, 1, 256, 1),
    (1024, 1, 1024, 4),
    (1024, 4, 64, 1),
    (64, 1, 64, 1),
    (256, 1, 64, 1),
    (3136, 1, 64, 1),
    (64, 4, 1024, 4),
)
#: numbers up to which the slower forms join
SMALL, MODERATE = 1024 * 64, 1024 * 256
Scan = Callable[..., Tensor]


def forms(length: int, batch: int, channels: int, groups: int) -> dict[str, Scan]:
    """All that are installed, ours first; the peers know one group only. What takes seconds at a
    size is left out of it.
    """
    work = length * batch * channels
    methods = ("chunked", "sequential", "associative")[: 3 if work <= MODERATE else 2]
    found: dict[str, Scan] = {
        method: lambda *p, method=method: selective_scan(*p, method=method) for method in methods
    }
    if groups > 1:
        return found
    if importlib.util.find_spec("transformers") and work <= SMALL:
        mamba = importlib.import_module("transformers.models.mamba.modeling_mamba")
        found["transformers loop"] = mamba.mamba_selective_scan
    if importlib.util.find_spec("mambapy") and work <= MODERATE:
        pscan = importlib.import_module("mambapy.pscan").pscan

        def mambapy(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
            u, delta, B, C = (part.transpose(1, 2) for part in (u, delta, B, C))  # (B, L, ...)
            a = torch.exp(delta.unsqueeze(-1) * A)
            states = pscan(a, (delta * u).unsqueeze(-1) * B.unsqueeze(2))
            return (states @ C.unsqueeze(-1)).squeeze(-1).transpose(1, 2)

        found["mambapy pscan"] = mambapy
    return found


def inputs(length: int, batch: int, channels: int, groups: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    inner = (batch, groups, STATE, length) if groups > 1 else (batch, STATE, length)
    made = [
        normal(batch, channels, length),
        F.softplus(normal(batch, channels, length) - 3),
        -torch.arange(1.0, STATE + 1).repeat(channels, 1),
        normal(*inner),
        normal(*inner),
    ]
    return [part.requires_grad_() for part in made]


def seconds(scan: Scan, given: list[Tensor]) -> tuple[float, float, Tensor]:
    """Of the forward pass, without gradients, and of forward and backward."""
    started = time.perf_counter()
    with torch.no_grad():
        outputs = scan(*given)
    forward = time.perf_counter() - started
    started = time.perf_counter()
    torch.autograd.grad(scan(*given).sum(), given)
    return forward, time.perf_counter() - started, outputs


def measured(size: tuple[int, int, int, int], rounds: int) -> list[dict[str, object]]:
    length, batch, channels, _ = size
    given, scans = inputs(*size), forms(*size)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in scans}
    gaps: dict[str, float] = {}
    reference = None
    for round_ in range(rounds + 1):
        for name, scan in scans.items():
            *both, outputs = seconds(scan, given)
            reference = outputs if reference is None else reference
            gaps[name] = float((outputs - reference).abs().max())
            if round_:  # the first warms up
                times[name].append((both[0], both[1]))
    rows = []
    for name, found in times.items():
        pairs = list(zip(found, times["chunked"], strict=True))
        rows.append(
            {
                "length": length,
                "batch": batch,
                "channels": channels,
                "form": name,
                "forward_ms": 1e3 * statistics.median(f[0] for f in found),
                "forward_backward_ms": 1e3 * statistics.median(f[1] for f in found),
                "forward_over_chunked": statistics.median(f[0] / c[0] for f, c in pairs),
                "forward_backward_over_chunked": statistics.median(f[1] / c[1] for f, c in pairs),
                "largest_difference": gaps[name],
            }
        )
    return rows


def holds(rows: list[dict[str, object]]) -> bool:
    """Whether the claim does."""
    return all(
        row["forward_backward_over_chunked"] >= FASTER
        for row in rows
        if row["form"] == "sequential"
        and row["length"] == LENGTH
        and row["batch"] * row["channels"] <= WIDTH
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows = []
    for size in SIZES:
        rows += measured(size, rounds)
        for row in rows[-len(forms(*size)) :]:
            print(json.dumps(row))
    write_json(
        RESULTS,
        {
            "claim": f"chunked at least {FASTER:g} times as fast as sequential, forward and "
            f"backward together, at length {LENGTH}, up to {WIDTH} channels of all samples, state "
            f"{STATE}",
            "baseline": "sartor's sequential form, the definition",
            "date": date.today().isoformat(),
            "threads": 1,
            "rounds": rounds,
            "state": STATE,
            "seed": SEED,
            "runtime": "eager",
            "rows": rows,
            "passed": holds(rows),
            "environment": environment(),
        },
    )
    print("passed" if holds(rows) else "failed")


if __name__ == "__main__":
    main()
