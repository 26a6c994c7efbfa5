"""Memory of the manifold loss against the full relation matrix.

Claim: what autograd keeps for the backward pass of the three decoupled terms is at most 5 % of what
the full relation matrix keeps, at 196 patches, batch 64 and 192 random patches; it falls with the
batch, to 1.3 % of the entries at batch 128. Counted: the bytes of every distinct storage that saved
tensors hooks see; the tokens and their norms, that both need, included. Baseline:
full_manifold_loss on the same tokens. Writes benchmarks/results/manifold_memory.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from sartor.core.files import write_json
from sartor.losses.manifold_kd import full_manifold_loss, manifold_loss
from sartor.measure import environment

RESULTS = Path(__file__).parents[1] / "results" / "manifold_memory.json"
PATCHES, RANDOM, WIDTHS, SEED, SHARE = 196, 192, (192, 384), 0, 0.05


def kept_bytes(loss: Callable[[], Tensor]) -> tuple[int, float]:
    """Bytes kept for the backward pass, and CPU seconds of forward and backward."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    started = time.process_time()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss()
    value.backward()
    return sum(storages.values()), time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(SEED)
    rows = []
    for batch in parser.parse_args().batches:
        student = torch.randn(batch, PATCHES, WIDTHS[0], generator=draw).requires_grad_()
        teacher = torch.randn(batch, PATCHES, WIDTHS[1], generator=draw)

        def parts(student: Tensor = student, teacher: Tensor = teacher) -> Tensor:
            return torch.stack(manifold_loss(student, teacher, num_random=RANDOM)).sum()

        def full(student: Tensor = student, teacher: Tensor = teacher) -> Tensor:
            return full_manifold_loss(student, teacher)

        ours, seconds = kept_bytes(parts)
        theirs, full_seconds = kept_bytes(full)
        entries = batch * PATCHES**2 + PATCHES * batch**2 + RANDOM**2
        rows.append(
            {
                "batch": batch,
                "entries": entries,
                "full_entries": (batch * PATCHES) ** 2,
                "kept_mb": ours / 1e6,
                "full_kept_mb": theirs / 1e6,
                "share_kept": ours / theirs,
                "share_entries": entries / (batch * PATCHES) ** 2,
                "cpu_seconds_ratio": full_seconds / seconds,
            }
        )
        print(json.dumps(rows[-1], indent=1))
    write_json(
        RESULTS,
        {
            "claim": f"at most {SHARE:.0%} of what the full matrix keeps, at the largest batch",
            "baseline": "full_manifold_loss on the same tokens",
            "date": date.today().isoformat(),
            "threads": 1,
            "patches": PATCHES,
            "num_random": RANDOM,
            "widths": list(WIDTHS),
            "seed": SEED,
            "runtime": "eager",
            "rows": rows,
            "passed": rows[-1]["share_kept"] <= SHARE,
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
