"""What InfoBatch costs an epoch, and that an epoch ends.

Claims: for 10 million samples all that InfoBatch adds to an epoch (drawing it, weights and scores
of every batch) takes less than a second and less than 200 MB; an epoch through a DataLoader with
several workers ends, each kept sample seen once. The draw, and for each batch the weighted mean
against the plain mean of the same losses, are timed in turn in one run on one thread; that a pruned
epoch has fewer batches is not credited. Going through torch's own shuffled sampler is timed beside
it. Memory is the growth of the peak resident size of a process that does nothing else. With
``--official FOLDER``, a checkout of the official repository, the same small epoch is asked of its
sampler, with a time limit. Writes benchmarks/results/infobatch.json.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, TensorDataset

from sartor.core.files import write_json
from sartor.measure import environment
from sartor.train import LossPruningSampler, prune_data, pruned_mean

SECONDS, BYTES = 1.0, 200e6
SAMPLES, EPOCHS = 10_000_000, 10
BATCHES = (4096, 1024, 256)
RESULTS = Path(__file__).parents[1] / "results" / "infobatch.json"
SMALL, WORKERS, LIMIT = 2000, (0, 2), 10.0


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def skewed(count: int) -> torch.Tensor:
    """Losses of which two thirds lie below the mean, as late in a training."""
    return torch.empty(count).log_normal_(0.0, 1.0, generator=torch.Generator().manual_seed(count))


def epoch_seconds(sampler: LossPruningSampler, batch: int) -> dict[str, float]:
    """One epoch of what a step adds: weighted mean, weights and scores against the plain mean."""
    values, plain, weighted = skewed(batch), 0.0, 0.0
    started = time.perf_counter()
    order = batches(sampler, batch)
    for indices in order:
        losses, index = values[: len(indices)], torch.tensor(indices)
        one = time.perf_counter()
        losses.mean()
        two = time.perf_counter()
        pruned_mean(sampler, losses, index)
        three = time.perf_counter()
        plain, weighted = plain + two - one, weighted + three - two
    rest = time.perf_counter() - started - plain - weighted
    return {"steps": weighted - plain, "going through the indices": rest}


def batches(sampler: Sampler[int], batch: int) -> Iterator[list[int]]:
    return iter(BatchSampler(sampler, batch, drop_last=False))


def drawn(sampler: LossPruningSampler, epoch: int) -> float:
    started = time.perf_counter()
    sampler.set_epoch(epoch)
    return time.perf_counter() - started


def overhead(batch: int, send: Callable[[Any], None]) -> None:
    """Epochs 0 to 3 of ten million samples; the first, which draws nothing, warms up."""
    torch.set_num_threads(1)
    pruned_mean(LossPruningSampler(batch, epochs=2), skewed(batch), torch.arange(batch))
    before, rows = peak_bytes(), []
    sampler = LossPruningSampler(SAMPLES, epochs=EPOCHS)
    epoch_seconds(sampler, 2**16)
    for epoch in (1, 2, 3):
        rows.append({"draw": drawn(sampler, epoch), **epoch_seconds(sampler, batch)})
    peak = peak_bytes() - before
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    started = time.perf_counter()
    for indices in batches(RandomSampler(range(SAMPLES)), batch):
        torch.tensor(indices)
    send(
        {
            "batch": batch,
            "seconds": median,
            "overhead_seconds": median["draw"] + median["steps"],
            "torch_shuffled_sampler_seconds": time.perf_counter() - started,
            "peak_bytes": peak,
            "saved_fraction": sampler.saved_fraction,
        }
    )


def ours(workers: int, send: Callable[[Any], None]) -> None:
    data = TensorDataset(torch.arange(SMALL))
    loader = DataLoader(data, batch_size=64, shuffle=True, num_workers=workers)
    pruned, seen, losses = prune_data(loader, epochs=EPOCHS), [], skewed(SMALL)
    sampler = pruned.sampler
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected, seen = sampler.num_kept, []
        for _, indices in pruned:
            pruned_mean(sampler, losses[indices], indices)
            seen += indices.tolist()
        assert len(seen) == len(set(seen)) == expected
    send({"ended": True, "batches": len(seen) // 64 + 1})


def official(folder: str, workers: int, send: Callable[[Any], None]) -> None:
    sys.path.insert(0, folder)
    from infobatch import InfoBatch  # the checkout's

    data = InfoBatch(TensorDataset(torch.arange(SMALL)), EPOCHS)
    taken = 0
    context = "fork" if workers else None  # its dataset cannot be sent to spawned workers
    for _ in DataLoader(
        data,
        batch_size=64,
        sampler=data.sampler,
        num_workers=workers,
        multiprocessing_context=context,
    ):
        taken += 1
        if taken > 10 * SMALL // 64:
            send({"ended": False, "batches": taken})
            return
    send({"ended": True, "batches": taken})


def apart(work: Callable[..., None], *args: Any, limit: float = 300.0) -> dict[str, Any]:
    """What a process of its own sends back; that it did not end in time is an answer."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*args, theirs.send))
    process.start()
    found = ours.recv() if ours.poll(limit) else {"ended": False, "limit_seconds": limit}
    process.kill()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--official", metavar="FOLDER", help="a checkout of the official code")
    folder = parser.parse_args().official
    rows = [apart(overhead, batch) for batch in BATCHES]
    ends = {f"{workers} workers": apart(ours, workers, limit=60.0) for workers in WORKERS}
    theirs = {
        f"{workers} workers": apart(official, folder, workers, limit=LIMIT)
        for workers in (WORKERS if folder else ())
    }
    judged = next(row for row in rows if row["batch"] == 1024)
    result = {
        "claim": f"batches of 1024 of {SAMPLES} samples: overhead < {SECONDS} s an epoch and peak "
        f"< {BYTES / 1e6:.0f} MB; epochs end with any number of workers",
        "date": date.today().isoformat(),
        "threads": 1,
        "samples": SAMPLES,
        "rows": rows,
        "epochs_end": ends,
        "official_sampler": theirs or "not given",
        "passed": judged["overhead_seconds"] < SECONDS
        and max(row["peak_bytes"] for row in rows) < BYTES
        and all(end["ended"] for end in ends.values()),
        "environment": environment(),
    }
    print(json.dumps(result, indent=1))
    write_json(RESULTS, result)


if __name__ == "__main__":
    main()
