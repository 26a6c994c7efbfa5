"""Started by test_processes through torchrun, or alone: distils with a projector, from the live
teacher or from its cache, and writes the student's weights.

Arguments: the file to write, the number of processes that are expected, the cache or a dash.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import Task
from sartor.losses import DistillationLoss, Outputs
from sartor.nn import tiny_vit
from sartor.train import TrainSettings, cache_teacher, distill, save_tensors


class Projected(DistillationLoss):
    """The last block of the student, projected, against that of the teacher."""

    student_taps = teacher_taps = ("blocks.1",)

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(8, 16)

    def forward(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        mine, wanted = student.features["blocks.1"], teacher.features["blocks.1"]
        gap = F.mse_loss(self.projector(mine), wanted)
        return F.cross_entropy(student.logits, targets) + gap


def main(path: str, expected: int, folder: str) -> None:
    torch.manual_seed(0)
    student, teacher = (tiny_vit(embed_dim=dim, depth=2, num_heads=2) for dim in (8, 16))
    loss = Projected()
    inputs, targets = torch.randn(48, 1, 8, 8), torch.arange(48) % 10
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
    task = Task.from_loader(loader, lambda model: 0.0, num_classes=10)
    cached = folder != "-"
    cache = cache_teacher(teacher, loader, folder) if cached else None
    distill(
        student,
        None if cached else teacher,
        task,
        loss="vanilla" if cached else loss,
        cache=cache,
        settings=TrainSettings(epochs=2, lr=1e-2, seed=5),
    )
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    assert world == expected, world
    rank = torch.distributed.get_rank() if world > 1 else 0
    save_tensors({**student.state_dict(), **loss.state_dict()}, Path(f"{path}.{rank}"))
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
