"""Two gloo processes clip as one process with the joined batch does: counts are global."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sartor.train import load_tensors

SCRIPT = str(Path(__file__).with_name("two_processes_cowclip.py"))


def run(*command: str) -> None:
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    "way", ["dense", *(pytest.param(way, marks=pytest.mark.slow) for way in ("sparse", "loop"))]
)
def test_two_processes_equal_one_with_the_joined_batch(tmp_path: Path, way: str) -> None:
    launch = ["-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    run(sys.executable, SCRIPT, str(tmp_path / "one"), "1", way)
    run(sys.executable, *launch, *rendezvous, SCRIPT, str(tmp_path / "two"), "2", way)
    one = load_tensors(tmp_path / "one.0")
    first, second = (load_tensors(tmp_path / f"two.{rank}") for rank in (0, 1))
    assert 0.01 < float(one["clipped"]) < 0.99
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)
