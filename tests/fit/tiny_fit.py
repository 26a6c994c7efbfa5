"""A run of ``fit`` that takes seconds: two ViTs of width 8 and 16, eager target, every random
choice seeded.

Started as a script by the tests that kill it; arguments: the run's folder, then the words of
``main``.
"""

import os
import signal
import sys

import torch

from sartor.core import Family, Member
from sartor.data import load_task
from sartor.fit import FitSettings, Progress, fit
from sartor.nn import build

SETTINGS = FitSettings(
    epochs=3,
    routes=3,
    prune_ratios=(0.5,),
    recovery_epochs=1,
    moves=("prune",),
    costs=("flops",),
)


def family():
    sources = [
        {"kind": "tiny_vit", "kwargs": {"embed_dim": dim, "depth": 2, "num_heads": 2}}
        for dim in (8, 16)
    ]
    return Family(
        tuple(
            Member(name=f"vit-{s['kwargs']['embed_dim']}", model=build(s, seed=i), source=s)
            for i, s in enumerate(sources)
        )
    )


class KillAt(Progress):
    """Sends a signal to this process when the run has advanced so many times."""

    def __init__(self, at, number):
        self.left, self.number = at, number

    def advance(self, text=""):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


class Count(Progress):
    """Counts how often the run advances."""

    def __init__(self):
        self.count, self.stages = 0, []

    def begin(self, stage, total):
        self.stages.append(stage)

    def advance(self, text=""):
        self.count += 1


def run(folder, progress=None, **more):
    torch.set_num_threads(1)
    given = {"target": "cpu/eager", "settings": SETTINGS, "progress": progress, **more}
    return fit(family(), load_task("digits"), out=folder, **given)


if __name__ == "__main__":
    at = int(sys.argv[2])
    number = {"KILL": signal.SIGKILL, "INT": signal.SIGINT}[sys.argv[3]]
    run(sys.argv[1], KillAt(at, number), resume=True)
