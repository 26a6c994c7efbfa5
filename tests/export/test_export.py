from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sartor.export.model as module
from sartor.core import ExportError
from sartor.export import FORMATS, export
from sartor.runtime import OnnxModule

EXAMPLE = torch.zeros(1, 3, 8, 8)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 5)
    )


@pytest.mark.parametrize("format", FORMATS)
def test_verified_file(format: str, tmp_path: Path) -> None:
    model, path = net(), tmp_path / "model.bin"
    state = torch.get_rng_state()
    report = export(model, EXAMPLE, path, format=format)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert report.verified and report.max_abs_diff < 1e-5
    assert (report.format, report.path) == (format, path)
    assert report.size_bytes == path.stat().st_size
    assert b"site-packages" not in path.read_bytes()
    run = OnnxModule(path) if format == "onnx" else torch.export.load(str(path)).module()
    inputs = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(run(inputs), model.eval()(inputs), atol=1e-5, rtol=0)


class Stubborn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize("format", FORMATS)
def test_value_dependent_model_is_refused(format: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Stubborn cannot be written"):
        export(Stubborn(), EXAMPLE, tmp_path / "model", format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_other_numbers_leave_the_old_file(
    error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = nn.Flatten(), tmp_path / "model.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(module, "to_onnx", lambda *_: None)
    monkeypatch.setattr(module, "_read", lambda *_: lambda inputs: inputs.flatten(1) + error)
    with pytest.raises(ExportError, match="differ by"):
        export(model, EXAMPLE, path, format="onnx")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_onnx_file_is_copied(tmp_path: Path) -> None:
    export(net(), EXAMPLE, tmp_path / "a.onnx", format="onnx")
    report = export(OnnxModule(tmp_path / "a.onnx"), EXAMPLE, tmp_path / "b.onnx", format="onnx")
    assert report.max_abs_diff == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    with pytest.raises(ExportError, match="use the format onnx"):
        export(OnnxModule(tmp_path / "a.onnx"), EXAMPLE, tmp_path / "c", format="torch_export")


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="did you mean 'onnx'"):
        export(net(), EXAMPLE, tmp_path / "model", format="onx")


def test_integer_inputs(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    report = export(model, torch.randint(7, (4, 3)), tmp_path / "model.onnx", format="onnx")
    assert report.verified
