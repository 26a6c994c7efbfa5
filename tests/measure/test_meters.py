import json
import socket
from pathlib import Path

import pytest
import torch
from torch import nn

from sartor.core import ArtifactError, Target
from sartor.measure import environment, file_bytes, module_bytes, peak_memory_bytes

EAGER = Target.parse("cpu/eager")


def test_peak_is_the_highest_sum_of_live_allocations(capfd: pytest.CaptureFixture[str]) -> None:
    def call() -> torch.Tensor:
        first = torch.empty(1_000_000)
        second = torch.empty(2_000_000)  # 12 MB live
        del first
        return second[:10] + torch.empty(500_000)[:10]  # 10 MB and a little

    assert peak_memory_bytes(call, EAGER) == 12_000_000
    assert peak_memory_bytes(call, EAGER, resident_bytes=5) == 12_000_005
    assert capfd.readouterr() == ("", "")


def test_onnxruntime_has_no_meter() -> None:
    assert peak_memory_bytes(list, Target.parse("cpu/onnxruntime")) is None


def test_environment_is_json_without_paths_or_the_host() -> None:
    text = json.dumps(environment())
    assert environment()["packages"]["torch"] == torch.__version__.split("+")[0] or "+" in text
    assert str(Path.home()) not in text
    assert socket.gethostname() not in text


def test_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"4567")
    assert file_bytes(tmp_path / "a") == 3 and file_bytes(tmp_path) == 7
    with pytest.raises(ArtifactError, match="does not exist"):
        file_bytes(tmp_path / "none")
    assert module_bytes(nn.BatchNorm1d(3)) == 4 * 3 * 4 + 8
