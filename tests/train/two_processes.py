"""Started by test_processes through torchrun, or alone: trains a stitched net and writes its
weights.

Arguments: the file to write, and the number of processes that are expected.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import Family, Member
from sartor.nn import tiny_vit
from sartor.stitch import draw_config, stitch
from sartor.train import TrainSettings, save_tensors, train


def main(path: str, expected: int) -> None:
    torch.manual_seed(0)
    family = Family(
        tuple(
            Member(name=str(dim), model=tiny_vit(embed_dim=dim, depth=2, num_heads=2))
            for dim in (8, 16)
        )
    )
    inputs, targets = torch.randn(48, 1, 8, 8), torch.arange(48) % 10
    net = stitch(family, inputs[:1])
    net.init_stitches(inputs[:16])
    drawn = []

    def on_step(step: int) -> None:
        drawn.append(draw_config(5, step, net.num_configs))
        net.set_config(drawn[-1])

    sizes = set()

    def loss(model, x, y):
        sizes.add(len(x))
        return F.cross_entropy(model(x), y)

    loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
    history = train(
        net,
        loader,
        loss,
        TrainSettings(epochs=2, lr=1e-2, seed=5),
        on_step=on_step,
    )
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    assert world == expected, world
    assert sizes == {8 // expected}, sizes  # each process has its part of a batch
    rank = torch.distributed.get_rank() if world > 1 else 0
    facts = {"drawn": torch.tensor(drawn), "losses": torch.tensor(history.losses)}
    save_tensors({**net.state_dict(), **facts}, Path(f"{path}.{rank}"))
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
