"""Started by test_mesa_processes through torchrun, or alone: trains under Mesa and writes weights.

Arguments: the file to write, and the number of processes that are expected.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from sartor.nn import tiny_vit
from sartor.train import TrainSettings, save_tensors, train
from sartor.train.mesa.context import mesa_
from sartor.train.mesa.settings import MesaSettings


def main(path: str, expected: int) -> None:
    torch.manual_seed(0)
    model = tiny_vit(embed_dim=24, depth=2, num_heads=3)
    inputs, targets = torch.randn(48, 1, 8, 8), torch.arange(48) % 10
    settings = MesaSettings(synchronize=True, stochastic=False, min_numel=4096)
    mesa = mesa_(model, settings)
    train(
        model,
        DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True),
        lambda net, x, y: F.cross_entropy(net(x), y),
        TrainSettings(epochs=2, lr=1e-2, seed=5),
    )
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    assert world == expected, world
    rank = torch.distributed.get_rank() if world > 1 else 0
    assert mesa.report().ratio > 3
    kinds = {f"codes.{k}": torch.tensor(v) * world for k, v in mesa.report().kinds.items()}
    ranges = {f"mesa.{key}": value for key, value in mesa.state_dict().items()}
    save_tensors({**model.state_dict(), **ranges, **kinds}, Path(f"{path}.{rank}"))
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
