"""Two gloo processes on the CPU train as one process with the joined batch does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sartor.train import load_tensors

SCRIPT = str(Path(__file__).with_name("two_processes.py"))


def run(*command):
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


def test_two_processes_equal_one_with_the_joined_batch(tmp_path):
    launch = ["-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    run(sys.executable, SCRIPT, str(tmp_path / "one"), "1")
    run(sys.executable, *launch, *rendezvous, SCRIPT, str(tmp_path / "two"), "2")
    one = load_tensors(tmp_path / "one.0")
    first, second = (load_tensors(tmp_path / f"two.{rank}") for rank in (0, 1))
    assert torch.equal(first["drawn"], second["drawn"])
    assert torch.equal(first["drawn"], one["drawn"])
    assert {0, 1} < set(one["drawn"].tolist())  # anchors and stitches
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
def test_two_processes_distil_as_one_does(tmp_path, cached):
    script = str(Path(SCRIPT).with_name("two_processes_distill.py"))
    folder = str(tmp_path / "cache") if cached else "-"
    launch = ["-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    run(sys.executable, script, str(tmp_path / "one"), "1", folder)
    run(sys.executable, *launch, *rendezvous, script, str(tmp_path / "two"), "2", folder)
    one = load_tensors(tmp_path / "one.0")
    first, second = (load_tensors(tmp_path / f"two.{rank}") for rank in (0, 1))
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5, msg=key)
