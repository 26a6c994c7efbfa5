"""Two gloo processes with InfoBatch train as one process with the joined batch does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sartor.train import load_tensors

SCRIPT = str(Path(__file__).with_name("two_processes_infobatch.py"))
LAUNCH = ("-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2")
RENDEZVOUS = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}


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


@pytest.mark.parametrize("how", ["split", "stripes"])
def test_two_processes_equal_one_with_the_joined_batch(tmp_path: Path, how: str) -> None:
    run(SCRIPT, str(tmp_path / "one"), "1", how)
    run(*LAUNCH, *RENDEZVOUS, SCRIPT, str(tmp_path / "two"), "2", how)
    one = load_tensors(tmp_path / "one.0")
    ranks = [load_tensors(tmp_path / f"two.{rank}") for rank in (0, 1)]
    losses = [found.pop("losses") for found in ranks]
    torch.testing.assert_close((losses[0] + losses[1]) / 2, one.pop("losses"))
    assert 0.1 < float(one["saved"]) < 0.5
    for key, value in one.items():
        assert torch.equal(ranks[0][key], ranks[1][key]), key
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-4, atol=1e-6, msg=key)
