"""Started by test_came_processes through torchrun, or alone: trains with CAME and writes weights
and state.

Arguments: the file to write, and the number of processes that are expected.
"""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from sartor.train import CAME, save_tensors

STEPS, BATCH = 20, 16


def main(path: str, expected: int) -> None:
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    assert world == expected, world
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 3, 6, 6), torch.arange(64) % 10
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 10))
    wrapped = model
    if world > 1:
        torch.distributed.init_process_group("gloo")
        wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = CAME(model.parameters(), lr=1e-3, weight_decay=0.1)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 10)
        # each process has its part of the joined batch
        chosen = torch.arange(step * BATCH, (step + 1) * BATCH) % 64
        mine = chosen[rank::world]
        F.cross_entropy(wrapped(inputs[mine]), targets[mine]).backward()
        optimizer.step()
        optimizer.zero_grad()
    state = {
        f"{index}.{key}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if isinstance(value, torch.Tensor)
    }
    save_tensors({**model.state_dict(), **state}, Path(f"{path}.{rank}"))
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
