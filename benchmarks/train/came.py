"""CAME's step against the released package and against torch's AdamW, and what each keeps.

Claim: with the 100 tensors of a small transformer a step of sartor's CAME takes at most half as
long as one of came-pytorch 0.1.3, over lists (the default) and compiled. Only ``step()`` is timed;
all optimisers get the same gradients, new in each round, and step in turn in one run on one thread;
judged is the median over rounds of the ratio within a round, as what disturbs a round disturbs its
calls alike; the interval holds the true median in 95 of 100 runs. came-pytorch and torchao are
optional (pip install came-pytorch==0.1.3 torchao): without them their rows are missing. Writes
benchmarks/results/came.json.
"""

import argparse
import importlib
import itertools
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.files import write_json
from sartor.core.packages import require
from sartor.measure import environment
from sartor.train import CAME, optimizer_state_bytes

RESULTS = Path(__file__).parents[1] / "results" / "came.json"
RELEASED, OVER_LISTS, COMPILED = "came-pytorch", "CAME over lists", "CAME compiled"
ADAMW, SEED, FACTOR, POOL = "AdamW foreach", 0, 2.0, 5
#: width of the transformer -> rounds; narrow ones are all overhead, wide ones all arithmetic
WIDTHS = {64: 120, 192: 60, 384: 30}
MODELS = ("vit_tiny_patch16_224", "vit_base_patch16_224", "resnet50")


def shapes(width: int) -> list[tuple[int, ...]]:
    """The 100 tensors of a transformer encoder of depth 8 with 100 classes."""
    block = [(width,)] * 2 + [(3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,)] * 2 + [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return 8 * block + [(width,), (width,), (100, width), (100,)]


def optimizers() -> dict[str, Callable[[Any], torch.optim.Optimizer]]:
    """Those that are compared, each with a rate that keeps weights finite."""
    made: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        OVER_LISTS: lambda params: CAME(params, lr=1e-5, warmup_safe=True),
        COMPILED: lambda params: CAME(params, lr=1e-5, warmup_safe=True, fused=True),
        ADAMW: lambda params: torch.optim.AdamW(params, lr=1e-5, foreach=True),
    }
    released = optional("came_pytorch")
    if released:
        made[RELEASED] = lambda params: released.CAME(params, lr=1e-5)
    return made


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def timed(width: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of each optimiser in each round; the order changes every time."""
    draw = torch.Generator().manual_seed(SEED)
    start = [torch.randn(shape, generator=draw) * 0.02 for shape in shapes(width)]
    pool = [[torch.randn(p.shape, generator=draw) * 0.01 for p in start] for _ in range(POOL)]
    params = {name: [nn.Parameter(p.clone()) for p in start] for name in optimizers()}
    made = {name: make(params[name]) for name, make in optimizers().items()}
    orders = list(itertools.permutations(made))
    times: dict[str, list[float]] = {name: [] for name in made}
    for number in range(-5, rounds):
        for name in orders[5 * number % len(orders)]:
            for param, gradient in zip(params[name], pool[number % POOL], strict=True):
                param.grad = gradient.clone()
            started = time.perf_counter()
            made[name].step()
            if number >= 0:  # the first rounds warm up and compile
                times[name].append(time.perf_counter() - started)
    return times


def ratio(numerator: list[float], denominator: list[float]) -> tuple[float, list[float]]:
    """Median of the ratios within a round, and its 95 % interval."""
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    margin, middle = round(0.98 * len(ratios) ** 0.5), len(ratios) // 2
    return statistics.median(ratios), [ratios[middle - margin], ratios[middle + margin]]


def speed(width: int, rounds: int) -> dict[str, Any]:
    times = timed(width, rounds)
    row: dict[str, Any] = {"width": width, "tensors": len(shapes(width)), "rounds": rounds}
    row["median_ms"] = {name: statistics.median(t) * 1e3 for name, t in times.items()}
    for name in (OVER_LISTS, COMPILED):
        for other in (RELEASED, ADAMW):
            if other in times:
                median, interval = ratio(times[other], times[name])
                row[f"{name}: times as fast as {other}"] = {"median": median, "interval": interval}
    return row


def held() -> dict[str, int]:
    """Bytes of state that optimisers really keep for the widest transformer after one step."""
    makers = {**optimizers(), "Adafactor": torch.optim.Adafactor}
    makers.pop(COMPILED)
    eight_bit = optional("torchao.optim")
    if eight_bit:
        makers["AdamW8bit"] = eight_bit.AdamW8bit
    found = {}
    for name, make in makers.items():
        params = [nn.Parameter(torch.ones(shape)) for shape in shapes(max(WIDTHS))]
        for param in params:
            param.grad = torch.ones_like(param)
        made = make(params)
        made.step()
        found[name] = sum(kept_bytes(v) for s in made.state.values() for v in s.values())
    return found


def kept_bytes(value: Any) -> int:
    if not isinstance(value, Tensor) or not value.ndim:
        return 0
    parts = [getattr(value, name, None) for name in ("codes", "scale", "qmap")]
    return sum(p.nbytes for p in parts if p is not None) or value.nbytes


def predicted() -> list[dict[str, Any]]:
    """Bytes by formula for models of timm."""
    rows = []
    for name in MODELS:
        with torch.device("meta"):
            model = require("timm").create_model(name)
        sizes = {
            kind: optimizer_state_bytes(model, kind)
            for kind in ("adamw", "came", "adafactor", "adafactor_momentum", "adamw8bit")
        }
        sizes["came, factor_conv=False"] = optimizer_state_bytes(model, "came", factor_conv=False)
        rows.append({"model": name, "params": sum(p.numel() for p in model.parameters()), **sizes})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS), choices=WIDTHS)
    widths = parser.parse_args().widths
    torch.set_num_threads(1)
    rows = [speed(width, WIDTHS[width]) for width in widths]
    judged = [row[key]["median"] for row in rows for key in row if key.endswith(RELEASED)]
    result = {
        "claim": f"at least {FACTOR:g} times as fast as came-pytorch 0.1.3 with 100 tensors",
        "date": date.today().isoformat(),
        "threads": 1,
        "seed": SEED,
        "rows": rows,
        "passed": min(judged) >= FACTOR if judged else "came-pytorch is not installed",
        "state_bytes_held": held(),
        "state_bytes_predicted": predicted(),
        "environment": environment(),
    }
    print(json.dumps(result, indent=1))
    write_json(RESULTS, result)


if __name__ == "__main__":
    main()
