"""Started by test_cowclip_processes through torchrun, or alone: trains a click-through model and
writes its weights.

Arguments: the file to write, the number of processes that are expected, and loop, dense or sparse.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from sartor.data.click_log import click_task, draw_click_log
from sartor.nn.deepfm import DeepFM
from sartor.train import TrainSettings, save_tensors, train
from sartor.train.cowclip.optimizer import CowClip, cowclip_adam
from sartor.train.cowclip.scaling import ScaledRates

FIELDS, BATCH, STEPS, R = (40, 20, 6), 32, 24, 0.02
RATES = ScaledRates(lr_dense=1e-2, lr_embedding=1e-2, l2=1e-3)


def by_loop(model: DeepFM) -> CowClip:
    """On the project's loop, which starts the processes' group and splits the batches."""
    made = []

    def factory(groups: list[dict]) -> CowClip:
        made.append(cowclip_adam(model, RATES, r=R))
        return made[0]

    train(
        model,
        click_task(train=STEPS * BATCH, selection=50, validation=50, batch_size=BATCH).train,
        lambda net, ids, clicks: F.binary_cross_entropy_with_logits(net(ids), clicks.double()),
        TrainSettings(epochs=1, seed=3),
        optimizer=factory,
    )
    return made[0]


def by_hand(model: DeepFM, expected: int) -> CowClip:
    """A plain loop around DistributedDataParallel."""
    if expected > 1:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if expected > 1 else 0
    log = draw_click_log(STEPS * BATCH, cardinalities=FIELDS)
    wrapped = DistributedDataParallel(model) if expected > 1 else model
    optimizer = cowclip_adam(model, RATES, r=R)
    for ids, clicks in zip(log.ids.split(BATCH), log.clicks.split(BATCH), strict=True):
        mine, wanted = (part.chunk(expected)[rank] for part in (ids, clicks))
        F.binary_cross_entropy_with_logits(wrapped(mine), wanted.double()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def main(path: str, expected: int, way: str) -> None:
    torch.manual_seed(0)
    fields = (3000, 1500, 800, 400, 200, 100, 50, 20) if way == "loop" else FIELDS
    # rows near zero turn with the sign of rounding errors, as Adam steps by signs
    model = DeepFM(fields, embed_dim=4, hidden=(8,), sparse=way == "sparse").double()
    optimizer = by_loop(model) if way == "loop" else by_hand(model, expected)
    world = dist.get_world_size() if dist.is_initialized() else 1
    assert world == expected, world
    facts = {"clipped": torch.tensor(optimizer.clipped_share)}
    rank = dist.get_rank() if world > 1 else 0
    save_tensors({**model.state_dict(), **facts}, Path(f"{path}.{rank}"))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
