"""Two gloo processes under Mesa train as one process with the joined batch does."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from sartor.train import load_tensors

SCRIPT = str(Path(__file__).with_name("two_processes_mesa.py"))
LAUNCH = (
    *("-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
)


def run(*command: str) -> None:
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, *command],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    run(SCRIPT, str(tmp_path / "one"), "1")
    run(*LAUNCH, SCRIPT, str(tmp_path / "two"), "2")
    one = load_tensors(tmp_path / "one.0")
    first, second = (load_tensors(tmp_path / f"two.{rank}") for rank in (0, 1))
    ranges = [key for key in one if key.startswith("mesa.alpha")]
    assert len(ranges) > 10 and {len(one[key]) for key in ranges} >= {3}
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        if key.startswith("codes."):  # the same tensors are stored; each process has its ranges
            torch.testing.assert_close(first[key], value, rtol=0.02, atol=0, msg=key)
        else:
            torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)
