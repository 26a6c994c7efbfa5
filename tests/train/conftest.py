"""What tests of several processes share: the same script in one process and under torchrun."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from sartor.train import load_tensors

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = (
    *("-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
)

Tensors = dict[str, Tensor]


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def one_and_two(tmp_path: Path) -> Callable[..., tuple[Tensors, Tensors, Tensors]]:
    """Run ``script OUT PROCESSES *words`` in one process, then in two; return what each left."""

    def both(name: str, *words: str) -> tuple[Tensors, Tensors, Tensors]:
        script = str(Path(__file__).with_name(name))
        run(script, str(tmp_path / "one"), "1", *words)
        run(*TORCHRUN, script, str(tmp_path / "two"), "2", *words)
        one, first, second = (load_tensors(tmp_path / end) for end in ("one.0", "two.0", "two.1"))
        return one, first, second

    return both
