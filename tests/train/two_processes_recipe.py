"""Started by test_recipe_processes through torchrun, or alone: trains with recipes and writes
weights and losses.

Arguments: the file to write, and the number of processes that are expected.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from sartor.nn import tiny_vit
from sartor.train import Recipe, TrainSettings, save_tensors, train

RECIPES = {
    "infobatch_came": Recipe(data_pruning="infobatch", optimizer="came", lr_scale=0.1),
    "large_batch_checkpointing": Recipe(batch_factor=2, checkpointing="blocks"),
    "infobatch_large_batch_muon": Recipe(
        data_pruning="infobatch", batch_factor=2, optimizer="muon"
    ),
}


def main(path: str, expected: int) -> None:
    facts, sizes = {}, set()

    def losses(model, x, y):
        sizes.add(len(x))
        return F.cross_entropy(model(x), y, reduction="none")

    for name, recipe in RECIPES.items():
        torch.manual_seed(0)
        net = tiny_vit(embed_dim=16, depth=2, num_heads=2)
        data = TensorDataset(torch.randn(64, 1, 8, 8), torch.arange(64) % 10)
        history = train(
            net,
            DataLoader(data, batch_size=8, shuffle=True),
            losses,
            TrainSettings(epochs=4, lr=3e-3, seed=5),
            recipe=recipe,
        )
        facts |= {f"{name}.{key}": value for key, value in net.state_dict().items()}
        with torch.no_grad():
            facts[f"{name}.logits"] = net(data.tensors[0])
        facts[f"{name}.losses"] = torch.tensor(history.losses)
        facts[f"{name}.steps"] = torch.tensor(history.steps)
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    assert world == expected, world
    assert max(sizes) == 16 // expected, sizes  # each process has its part of a batch
    rank = torch.distributed.get_rank() if world > 1 else 0
    save_tensors(facts, Path(f"{path}.{rank}"))
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
