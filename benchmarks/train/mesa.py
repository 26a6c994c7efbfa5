"""One training step: Mesa against plain autograd, gradient checkpointing and autocast.

Claim: Mesa keeps less than a third of the bytes that autograd keeps in float32, and less than 0.6
of what autocast keeps, with an exact forward pass; it pays with time. Baselines: the same step with
autograd's own storage, with each block checkpointed, and under bfloat16 autocast; both are also
combined with Mesa. Every round times each way once, in an order that moves on; medians and ratios
are over rounds, of CPU seconds of one thread, which other programs disturb little. Kept bytes are
those of distinct storages that wait for the backward pass; the peak is that of torch's allocator
over the whole step. Writes benchmarks/results/mesa.json.
"""

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from datetime import date
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import Target
from sartor.core.files import write_json
from sartor.measure import environment, peak_memory_bytes
from sartor.train import Mesa, MesaSettings

RESULTS = Path(__file__).parents[1] / "results" / "mesa.json"
MODEL, SEED, SHARE, AUTOCAST_SHARE = "deit_tiny_patch16_224", 0, 0.33, 0.6
#: keeps every tensor as it is: its report counts what autograd keeps
COUNT = MesaSettings(min_numel=2**62)
#: name -> (settings of Mesa, checkpointing, autocast)
WAYS: dict[str, tuple[MesaSettings | None, bool, bool]] = {
    "autograd": (None, False, False),
    "Mesa": (MesaSettings(), False, False),
    "Mesa, to nearest": (MesaSettings(stochastic=False), False, False),
    "checkpointing": (None, True, False),
    "checkpointing, Mesa": (MesaSettings(), True, False),
    "autocast": (None, False, True),
    "autocast, Mesa": (MesaSettings(), False, True),
}


class Step:
    """One way to take the step, on a model that all ways share."""

    def __init__(self, model: nn.Module, batch: tuple[Tensor, Tensor], name: str) -> None:
        self.model, (self.inputs, self.targets) = model, batch
        settings, self.checkpointing, self.autocast = WAYS[name]
        self.mesa = Mesa(model, settings) if settings else None
        self.counter = Mesa(model, COUNT)

    def __call__(self, mesa: Mesa | None = None) -> Tensor:
        """Forward and backward; returns the logits."""
        self.model.zero_grad()
        self.model.set_grad_checkpointing(self.checkpointing)
        with ExitStack() as stack:
            if self.autocast:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            if mesa or self.mesa:
                stack.enter_context(mesa or self.mesa)
            logits = self.model(self.inputs)
        F.cross_entropy(logits.float(), self.targets).backward()
        return logits.detach()

    def gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.model.parameters()])

    def kept_bytes(self) -> int:
        mesa = self.mesa or self.counter
        self(mesa)
        return mesa.report().stored_bytes


def measure(model: nn.Module, batch: tuple[Tensor, Tensor], rounds: int) -> list[dict]:
    steps = {name: Step(model, batch, name) for name in WAYS}
    exact_logits = {on: steps["autocast" if on else "autograd"]() for on in (True, False)}
    steps["autograd"]()
    exact = steps["autograd"].gradient()
    rows = []
    for name, step in steps.items():
        logits = step()
        error = float((step.gradient() - exact).norm() / exact.norm())
        equal = torch.equal(logits, exact_logits[step.autocast])
        kept = step.kept_bytes()
        peak = peak_memory_bytes(step, Target.parse("cpu/eager"))
        rows.append(
            {
                "way": name,
                "kept_mb": kept / 1e6,
                "peak_mb": peak / 1e6,
                "gradient_error": error,
                "forward_equal": equal,
            }
        )
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            began = time.process_time()
            steps[name]()
            seconds[name].append(time.process_time() - began)
    first = rows[0]
    for row in rows:
        taken = seconds[row["way"]]
        row["cpu_seconds"] = statistics.median(taken)
        row["cpu_seconds_all"] = [round(value, 4) for value in taken]
        pairs = zip(taken, seconds["autograd"], strict=True)
        row["times_autograd"] = statistics.median(mine / other for mine, other in pairs)
        row["share_kept"] = row["kept_mb"] / first["kept_mb"]
        row["share_peak"] = row["peak_mb"] / first["peak_mb"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = timm.create_model(MODEL, num_classes=10).train()
    batch = (torch.randn(given.batch, 3, 224, 224), torch.arange(given.batch) % 10)
    rows = measure(model, batch, given.rounds)
    by = {row["way"]: row for row in rows}
    for row in rows:
        print(json.dumps({k: v for k, v in row.items() if k != "cpu_seconds_all"}))
    passed = (
        by["Mesa"]["share_kept"] <= SHARE
        and by["autocast, Mesa"]["kept_mb"] <= AUTOCAST_SHARE * by["autocast"]["kept_mb"]
        and all(row["forward_equal"] for row in rows)
    )
    write_json(
        RESULTS,
        {
            "claim": f"at most {SHARE} of autograd's bytes in float32, at most {AUTOCAST_SHARE} of "
            "autocast's, and forward passes that are equal bit for bit",
            "baseline": "the same step with autograd's storage, checkpointed, and under autocast",
            "date": date.today().isoformat(),
            "threads": 1,
            "model": MODEL,
            "batch": given.batch,
            "rounds": given.rounds,
            "seed": SEED,
            "runtime": "eager",
            "rows": rows,
            "passed": passed,
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
