"""What stitching costs at run time: nothing beyond the blocks and the stitching layer of a route.

Claim: a stitched forward takes at most 1.02 times as long as the extracted plain module, and as the
embedding, blocks, stitching layer and head that it runs, called one after another without any net
around them; all timed in turn in one run, in eager mode on one thread. Reported beside it and not
judged: the sum of the same parts each repeated alone, which is lower, as a part that is repeated
finds its weights and inputs in the cache. Writes benchmarks/results/sn_net.json.
"""

import argparse
import functools
import json
import statistics
import time
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

from sartor.core import Family
from sartor.core.files import write_json
from sartor.measure import environment, latency
from sartor.nn import tiny_vit
from sartor.nn.sources import seeded
from sartor.stitch import StitchableNetwork, stitch

LIMIT = 1.02
RESULTS = Path(__file__).parents[1] / "results" / "sn_net.json"
#: the family of the demo, and one whose blocks take about a millisecond
FAMILIES = {
    "digits, widths 16/32/96, depth 6, batch 16": ((16, 32, 96), 6, 8, 2, 16),
    "64 x 64 pixels, widths 96/192/288, depth 6, batch 1": ((96, 192, 288), 6, 64, 8, 1),
}
ROUTE = "a1-2.s0.2-3"
#: timings of each call: on a machine that others use, the median of fewer strays by some percent
ROUNDS = 401


def made(widths: tuple[int, ...], depth: int, size: int, patch: int) -> StitchableNetwork:
    with seeded(0):
        models = {
            f"vit-{w}": tiny_vit(
                embed_dim=w, depth=depth, num_heads=4, img_size=size, patch_size=patch
            ).eval()
            for w in widths
        }
        return stitch(Family.of(models), torch.zeros(1, 1, size, size))


def parts(net: StitchableNetwork, index: int, inputs: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Each module of the route with the input that it gets."""
    plain, taken = net.extract(index), []
    for module in (plain.embed, *plain.blocks, plain.head):
        taken.append((module, inputs))
        inputs = module(inputs)
    return taken


def compared(net: StitchableNetwork, inputs: Tensor, seconds: float) -> dict[str, float]:
    index = next(i for i, config in enumerate(net.configs) if config.name == ROUTE)
    plain, route = net.extract(index).eval(), parts(net, index, inputs)
    net.set_config(index)
    modules = [module for module, _ in route]
    calls = {
        "stitched": lambda: net(inputs),
        "extracted": lambda: plain(inputs),
        "in turn": lambda: functools.reduce(lambda x, module: module(x), modules, inputs),
    }
    times = {k: v.median_ms for k, v in latency(calls, min_seconds=seconds, rounds=ROUNDS).items()}
    alone = {f"{i}": lambda m=m, x=x: m(x) for i, (m, x) in enumerate(route)}
    total = sum(value.median_ms for value in latency(alone, min_seconds=0.2).values())
    return {
        "stitched_ms": times["stitched"],
        "extracted_ms": times["extracted"],
        "parts_in_turn_ms": times["in turn"],
        "parts_repeated_alone_ms": total,
        "over_extracted": times["stitched"] / times["extracted"],
        "over_parts_in_turn": times["stitched"] / times["in turn"],
    }


def switch_us(net: StitchableNetwork, repeats: int = 5000) -> float:
    times = []
    for step in range(repeats):
        started = time.perf_counter()
        net.set_config(step % net.num_configs)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each call")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    rows = []
    for name, (widths, depth, size, patch, batch) in FAMILIES.items():
        net = made(widths, depth, size, patch)
        inputs = torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            row = {"family": name, "route": ROUTE, **compared(net, inputs, seconds)}
        row["set_config_us"] = switch_us(net)
        row["passed"] = (
            max(row["over_extracted"], row["over_parts_in_turn"]) <= LIMIT
            and row["set_config_us"] < 100
        )
        rows.append(row)
        print(json.dumps(row, indent=1))
    write_json(
        RESULTS,
        {
            "claim": f"stitched <= {LIMIT} x extracted and x its parts in turn; set_config < 100 "
            "us",
            "date": date.today().isoformat(),
            "threads": 1,
            "runtime": "eager",
            "rows": rows,
            "passed": all(row["passed"] for row in rows),
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
