from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from sartor.compress.int8 import (
    Int8DynamicConfig,
    Int8StaticConfig,
    quantize_dynamic,
    quantize_static,
)
from sartor.core import ArtifactError, DataError, ExportError, NoEffectError, RecipeError
from sartor.runtime import OnnxModule, to_onnx


class Attention(nn.Module):
    """Inputs (B, 9, 64) -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.up, self.down = nn.Linear(64, 192), nn.Linear(64, 256), nn.Linear(256, 64)
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(*x.shape[:2], 3, 4, 16).permute(2, 0, 3, 1, 4)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return self.head(x.mean(1))


class Residual(nn.Module):
    """Inputs (B, 3, 12, 12) -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.stem(x))
        x = nn.functional.relu(x + self.norm(self.conv(x)))
        return self.head(nn.functional.max_pool2d(x, 2).mean((2, 3)))


SHAPES = {"attention": (9, 64), "residual": (3, 12, 12)}
WEIGHTED = {"attention": 4, "residual": 3}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("float")
    for name, model in (("attention", Attention()), ("residual", Residual())):
        to_onnx(model, torch.zeros(1, *SHAPES[name]), folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in SHAPES}


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def relative_error(float_file: Path, file: Path, inputs: Tensor) -> float:
    expected = OnnxModule(float_file)(inputs)
    return float((OnnxModule(file)(inputs) - expected).abs().max() / expected.abs().max())


def test_dynamic_attention(
    files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "int8.onnx"
    report = quantize_dynamic(files["attention"], path, Int8DynamicConfig())
    assert report.after["quantized_nodes"] == WEIGHTED["attention"] and report.skipped == ()
    assert report.after["size_bytes"] == path.stat().st_size
    assert report.after["size_bytes"] < 0.35 * report.before["size_bytes"]
    assert operators(path).count("MatMulInteger") == WEIGHTED["attention"]
    for batch in (1, 5):
        assert relative_error(files["attention"], path, torch.randn(batch, 9, 64)) < 0.05
    assert capfd.readouterr() == ("", "") and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "op_types", "integers"),
    [
        ("attention", ("Gemm",), ["MatMulInteger"]),
        ("attention", ("MatMul",), ["MatMulInteger"] * 3),
        ("residual", ("Conv",), ["ConvInteger"] * 2),
    ],
)
def test_dynamic_quantises_the_types_asked_for(
    name: str,
    op_types: tuple[str, ...],
    integers: list[str],
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "int8.onnx"
    report = quantize_dynamic(files[name], path, Int8DynamicConfig(op_types=op_types))
    assert [kind for kind in operators(path) if kind.endswith("Integer")] == integers
    assert report.after["quantized_nodes"] == len(integers)


def test_dynamic_leaves_convolutions_and_says_so(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    report = quantize_dynamic(files["residual"], path, Int8DynamicConfig())
    assert report.after["quantized_nodes"] == operators(path).count("MatMulInteger") == 1
    assert len(report.skipped) == 2 and all("Conv" in line for line in report.skipped)


@pytest.mark.parametrize("name", ["attention", "residual"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_static(name: str, per_channel: bool, files: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, inputs = tmp_path / "int8.onnx", torch.randn(16, *SHAPES[name])
    config = Int8StaticConfig(per_channel=per_channel)
    report = quantize_static(files[name], path, inputs.split(4), config)
    assert report.after["quantized_nodes"] == WEIGHTED[name]
    assert report.after["size_bytes"] < 0.45 * report.before["size_bytes"]
    assert relative_error(files[name], path, inputs) < 0.08


class Stacked(nn.Module):
    """Inputs (B, 2, 5, 4) -> (B, 2, 5, 6), by a matrix for each of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.heads = nn.Linear(4, 4), nn.Parameter(torch.randn(2, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) @ self.heads


def test_stacks_of_matrices_stay_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Stacked(), torch.randn(3, 2, 5, 4)
    to_onnx(model, x, tmp_path / "float.onnx")
    report = quantize_static(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", [x], Int8StaticConfig()
    )
    assert report.after["quantized_nodes"] == 1
    assert len(report.skipped) == 1 and "stack of matrices" in report.skipped[0]
    with torch.no_grad():
        wanted = model(x)
    off = (OnnxModule(tmp_path / "int8.onnx")(x) - wanted).abs().max() / wanted.abs().max()
    assert off < 0.05


def test_static_keeps_softmax_in_float(files: dict[str, Path], tmp_path: Path) -> None:
    # integers around a softmax make ONNX Runtime 1.31 give wrong numbers
    path = tmp_path / "int8.onnx"
    quantize_static(files["attention"], path, [torch.randn(4, 9, 64)], Int8StaticConfig())
    graph = onnx.load(str(path)).graph
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    makers = {output: node.op_type for node in graph.node for output in node.output}
    assert makers[softmax.input[0]] != "DequantizeLinear"


def test_static_carries_integers_through_a_residual_addition(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    quantize_static(files["residual"], path, [torch.randn(4, 3, 12, 12)], Int8StaticConfig())
    graph = onnx.load(str(path)).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    additions = [node for node in graph.node if node.op_type == "Add"]
    assert additions
    assert all(makers[name] == "DequantizeLinear" for node in additions for name in node.input)


def test_batches_are_taken_one_at_a_time(files: dict[str, Path], tmp_path: Path) -> None:
    taken: list[int] = []

    def batches() -> Iterator[Tensor]:
        for index in range(3):
            taken.append(index)
            yield torch.randn(2, 9, 64)
        taken.append(-1)

    config = Int8StaticConfig(op_types=("Gemm",))
    report = quantize_static(files["attention"], tmp_path / "int8.onnx", batches(), config)
    assert taken == [0, 1, 2, -1] and report.after["quantized_nodes"] == 1


def test_range_comes_from_all_batches(files: dict[str, Path], tmp_path: Path) -> None:
    inputs = torch.randn(8, 9, 64)
    errors = []
    for batches in ([0.01 * inputs], [0.01 * inputs, inputs]):
        path = tmp_path / "int8.onnx"
        quantize_static(files["attention"], path, batches, Int8StaticConfig())
        errors.append(relative_error(files["attention"], path, inputs))
    assert errors[1] < 0.08 < errors[0]


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([], "no batch"),
        ([torch.zeros(2, 9, 63)], r"takes \(at least 1, 9, 64\)"),
        ([torch.zeros(0, 9, 64)], "at least 1"),
        ([torch.zeros(2, 9, 64, dtype=torch.float64)], "float64"),
    ],
    ids=["none", "shape", "empty", "dtype"],
)
def test_bad_batches(
    batches: list[Tensor], says: str, files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=says):
        quantize_static(files["attention"], tmp_path / "a.onnx", batches, Int8StaticConfig())
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_quantise(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NoEffectError, match="no Conv with a constant weight"):
        config = Int8DynamicConfig(op_types=("Conv",))
        quantize_dynamic(files["attention"], tmp_path / "a.onnx", config)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_source(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        quantize_dynamic(tmp_path / "no.onnx", tmp_path / "a.onnx", Int8DynamicConfig())
    (tmp_path / "bad.onnx").write_bytes(b"not onnx at all")
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        quantize_dynamic(tmp_path / "bad.onnx", tmp_path / "a.onnx", Int8DynamicConfig())


def test_what_onnxruntime_refuses_is_said(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Unable to find data type for weight_name='x'\nmore")

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", refuse)
    with pytest.raises(ExportError, match=r"cannot quantise .*\.onnx \(Unable to find .*'x'\)"):
        quantize_dynamic(next(iter(files.values())), tmp_path / "a.onnx", Int8DynamicConfig())
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("config", [Int8DynamicConfig, Int8StaticConfig])
def test_illegal_settings(config: type[Int8DynamicConfig] | type[Int8StaticConfig]) -> None:
    with pytest.raises(RecipeError, match="did you mean 'MatMul'"):
        config(op_types=("Matmul",))
    with pytest.raises(RecipeError, match="empty"):
        config(op_types=())
