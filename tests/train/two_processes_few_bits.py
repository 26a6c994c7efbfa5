"""Started by test_processes_few_bits through torchrun, or alone: trains on the one loop with a
dropout schedule, with quantised products, with rounded weights and with 8-bit moments, and writes
all weights.

Arguments: the file to write, and the number of processes that are expected.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.train import (
    DropoutSchedule,
    ErrorFeedback,
    StochasticRounding,
    TrainSettings,
    low_bit_adamw,
    prepare_low_precision_,
    save_tensors,
    top_k_gradient,
    train,
)


class MeanDropout(nn.Module):
    """What dropout does in the mean, so that two processes can equal one."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout_p = 0.0

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * (1 - self.dropout_p)


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(64, 64), MeanDropout(), nn.ReLU(), nn.Linear(64, 64))
    return nn.Sequential(*layers)


def trained(model: nn.Module, **more: object) -> nn.Module:
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(192, 64, generator=draw)
    data = TensorDataset(inputs, inputs[:, :10].argmax(1))
    loader = DataLoader(data, batch_size=64, shuffle=True)
    settings = TrainSettings(epochs=2, lr=1e-2, seed=5)
    kind = model[0].weight.dtype
    train(
        model, loader, lambda m, x, y: F.cross_entropy(m(x.to(kind)).float(), y), settings, **more
    )
    return model


def fed_back(expected: int) -> nn.Module:
    """A plain loop of torch with the communication hook; each process takes half of the batch."""
    model = net()
    rank = torch.distributed.get_rank() if expected > 1 else 0
    wrapped = nn.parallel.DistributedDataParallel(model) if expected > 1 else model
    feedback = ErrorFeedback(top_k_gradient(1.0))
    if expected > 1:
        wrapped.register_comm_hook(None, feedback.hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    draw = torch.Generator().manual_seed(2)
    for _ in range(4):
        inputs = torch.randn(64, 64, generator=draw).chunk(expected)[rank]
        optimizer.zero_grad()
        wrapped(inputs).square().mean().backward()
        optimizer.step()
    return model


def main(path: str, expected: int) -> None:
    rates = []
    late = net()
    schedule = DropoutSchedule(late, total_steps=6, rate=0.3, attributes=("dropout_p",))
    trained(late, on_step=lambda step: rates.append(schedule(step)))
    quantised = net()
    prepare_low_precision_(quantised, "mxfp8")  # 32 rows a process: the same blocks
    models = {
        "late": late,
        "mxfp8": trained(quantised),
        "rounded": trained(
            net().bfloat16(),
            optimizer=lambda groups: StochasticRounding(torch.optim.SGD(groups, lr=1e-2), seed=7),
        ),
        "8-bit": trained(net(), optimizer=lambda groups: low_bit_adamw(groups, 8, lr=1e-2)),
    }
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    assert world == expected, world
    models["fed back"] = fed_back(expected)
    rank = torch.distributed.get_rank() if world > 1 else 0
    weights = {f"{n}.{k}": v for n, m in models.items() for k, v in m.state_dict().items()}
    save_tensors({**weights, "rates": torch.tensor(rates)}, Path(f"{path}.{rank}"))
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
