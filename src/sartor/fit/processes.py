"""Processes of a run: all of them train, the first does the rest."""

from __future__ import annotations

import os

import torch

from sartor.core.packages import require
from sartor.train.job import several_on_cpus

__all__ = ["is_main", "leave_group", "meet"]

_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_main() -> bool:
    """Whether this is the first process of those that ``torchrun`` started, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def meet() -> None:
    """Wait until every process is here; with one process, nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        require("accelerate").PartialState(cpu=several_on_cpus()).wait_for_everyone()


def leave_group() -> None:
    """End the joint work of several processes, so that this one trains alone from here on."""
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    require("accelerate.state").AcceleratorState._reset_state(reset_partial_state=True)
    for name in _LAUNCHER:
        os.environ.pop(name, None)
