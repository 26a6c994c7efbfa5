from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from sartor.core import FamilyError
from sartor.nn.weights import load_weights_, read_weights


class _Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _state(**changes: Any) -> dict[str, Tensor]:
    state = {"weight": torch.full((2, 3), 7.0), "bias": torch.zeros(2), **changes}
    return {key: value for key, value in state.items() if value is not None}


def _save(path: Path, value: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(value, path)
    else:
        torch.save(value, path)
    return path


@pytest.mark.parametrize("kind", [".safetensors", ".pt", ".pth"])
def test_weights_are_loaded(tmp_path: Path, kind: str) -> None:
    model = nn.Linear(3, 2)
    load_weights_(model, _save(tmp_path / f"w{kind}", _state()), name="net")
    assert float(model.weight.detach().mean()) == 7.0


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_kept_beside_other_things(tmp_path: Path, key: str) -> None:
    path = _save(tmp_path / "w.pt", {key: _state(), "epoch": 3, "args": Namespace(lr=5e-4)})
    assert read_weights(path).keys() == _state().keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": None}, r"'net' \(1 missing: bias\)"),
        ({"extra": torch.zeros(1)}, r"\(1 unexpected: extra\)"),
        ({"weight": torch.zeros(4, 3)}, r"weight is \(4, 3\) and should be \(2, 3\)"),
        (
            {"bias": None, **{f"e{i}": torch.zeros(1) for i in range(5)}},
            r"1 missing: bias; 5 unexpected: e0, e1, e2 and 2 more",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(FamilyError, match=message):
        load_weights_(model, _save(tmp_path / "w.safetensors", _state(**changes)), name="net")
    assert torch.equal(model.weight.detach(), before)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = _save(tmp_path / "w.pt", {"weight": _Touch(tmp_path / "touched")})
    with pytest.raises(FamilyError, match="cannot be read as plain tensors"):
        read_weights(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("kind", [".safetensors", ".pt"])
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    path = _save(tmp_path / f"w{kind}", _state())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FamilyError, match="cannot be read as plain tensors"):
        read_weights(path)


def test_other_contents_and_kinds(tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="hold no state dict"):
        read_weights(_save(tmp_path / "w.pt", [1, 2]))
    with pytest.raises(FamilyError, match=r"give a \.safetensors, \.pt or \.pth file"):
        read_weights(tmp_path / "w.bin")
    with pytest.raises(FamilyError, match="do not exist"):
        read_weights(tmp_path / "missing.pt")
