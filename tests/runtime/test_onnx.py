import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sartor.core import ArtifactError, DataError, ExportError
from sartor.runtime import OnnxModule, to_onnx


class Attention(nn.Module):
    """Inputs (B, N, 8) -> logits (B, 3): one attention block with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)
        self.norm, self.drop = nn.LayerNorm(8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(self.drop(x).mean(1))


class ValueDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Unsupported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x)[1]


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x + 2


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Attention()


@pytest.fixture(scope="module")
def exported(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> OnnxModule:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    state = torch.get_rng_state()
    to_onnx(model, torch.zeros(1, 5, 8), path)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and all(module.training for module in model.modules())
    return OnnxModule(path)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_file_computes_what_the_module_computes_in_eval_mode(
    model: nn.Module, exported: OnnxModule, batch: int
) -> None:
    inputs = torch.randn(batch, 5, 8)
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(inputs)
    torch.testing.assert_close(exported(inputs), expected, atol=1e-5, rtol=0)


def test_file_names_no_place_of_this_machine(exported: OnnxModule) -> None:
    content = exported.path.read_bytes()
    assert b".py" not in content and b"site-packages" not in content
    assert list(exported.path.parent.iterdir()) == [exported.path]  # weights are inside


def test_copy_of_an_open_module_works(exported: OnnxModule) -> None:
    inputs = torch.randn(2, 5, 8)
    assert torch.equal(copy.deepcopy(exported)(inputs), exported(inputs))


@pytest.mark.parametrize(
    ("broken", "says"),
    [(ValueDependent(), "data-dependent"), (Unsupported(), "svd"), (Pair(), "2 outputs")],
    ids=["control flow", "operator", "two outputs"],
)
def test_what_cannot_be_exported_is_named(
    broken: nn.Module, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=says) as caught:
        to_onnx(broken, torch.randn(1, 4, 4), tmp_path / "model.onnx")
    assert type(broken).__name__ in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "inputs",
    [torch.zeros(2, 6, 8), torch.zeros(2, 5), torch.zeros(2, 5, 8, dtype=torch.float64)],
    ids=["size", "rank", "dtype"],
)
def test_inputs_that_do_not_fit_are_explained(exported: OnnxModule, inputs: Tensor) -> None:
    with pytest.raises(DataError, match=r"takes \(any, 5, 8\) of float32"):
        exported(inputs)


def test_missing_and_damaged_files(exported: OnnxModule, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        OnnxModule(tmp_path / "none.onnx")(torch.zeros(1, 5, 8))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(exported.path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        OnnxModule(damaged)(torch.zeros(1, 5, 8))
