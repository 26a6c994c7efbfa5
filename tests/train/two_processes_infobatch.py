"""Started by test_infobatch_processes through torchrun, or alone: trains with InfoBatch and writes
weights and scores.

Arguments: the file to write, the number of processes that are expected, and how the processes
share a batch: ``split`` by the loop, or ``stripes`` of the sampler in a loop of one's own, which is
then killed and resumed in the midst of an epoch.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from sartor.train import PruningLoss, TrainSettings, prune_data, save_tensors, train

EPOCHS, COUNT, BATCH = 8, 43, 8  # neither 43 nor what pruned epochs keep divides by 8
STOP = (3, 1)


def losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), targets, reduction="none")


def pruned(batch: int, **world: int) -> tuple[DataLoader, PruningLoss]:
    inputs = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(1))
    targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 1).long()
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=batch, shuffle=True)
    made = prune_data(loader, epochs=EPOCHS, **world)
    return made, PruningLoss(made.sampler, losses)


def stripes(net: nn.Module, rank: int, world: int) -> tuple[DataLoader, list[float]]:
    """Plain DistributedDataParallel and SGD; several processes are stopped and go on."""
    loader, loss = pruned(BATCH // world, rank=rank, world_size=world)
    model = DistributedDataParallel(net) if world > 1 else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    values: list[float] = []

    def go(first: int, stop: tuple[int, int] | None) -> None:
        for epoch in range(first, EPOCHS):
            loader.sampler.set_epoch(epoch)
            for number, batch in enumerate(loader):
                if (epoch, number) == stop:
                    return
                value = loss(model, *batch)
                value.backward()
                optimizer.step()
                optimizer.zero_grad()
                values.append(value.item())

    go(0, STOP if world > 1 else None)
    if world > 1:
        state = loader.sampler.state_dict()
        loader, loss = pruned(BATCH // world, rank=rank, world_size=world)
        loader.sampler.load_state_dict(state)
        go(STOP[0], None)
    return loader, values


def main(path: str, expected: int, how: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 3))
    if how == "split":
        loader, loss = pruned(BATCH)
        history = train(net, loader, loss, TrainSettings(epochs=EPOCHS, lr=1e-2, seed=5))
        values = history.losses
        assert history.steps[0] == history.steps[7] == 6 > min(history.steps)
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        rank = torch.distributed.get_rank() if world > 1 else 0
    else:
        if expected > 1:
            torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank() if expected > 1 else 0
        world = torch.distributed.get_world_size() if expected > 1 else 1
        loader, values = stripes(net, rank, world)
    assert world == expected, world
    facts = {
        "scores": loader.sampler.scores,
        "saved": torch.tensor(loader.sampler.saved_fraction),
        "losses": torch.tensor(values),
    }
    save_tensors({**net.state_dict(), **facts}, Path(f"{path}.{rank}"))
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
