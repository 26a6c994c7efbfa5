import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sartor.core import Target, TargetError
from sartor.runtime import OnnxModule, prepare, target_threads

EXAMPLE = torch.zeros(1, 4)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def expected(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = model.eval()(inputs)
    return outputs


@pytest.mark.parametrize("name", ["cpu/eager", "cpu/onnxruntime"])
def test_call_and_artifact(name: str, tmp_path: Path) -> None:
    model, inputs = net(), torch.randn(5, 4)
    prepared = prepare(model, Target.parse(name), EXAMPLE, tmp_path)
    assert model.training and all(value.requires_grad for value in model.parameters())
    torch.testing.assert_close(prepared.call(inputs), expected(model, inputs), atol=1e-5, rtol=0)
    assert prepared.size_bytes == prepared.artifact.stat().st_size
    assert list(tmp_path.iterdir()) == [prepared.artifact]


def test_safetensors_hold_the_state(tmp_path: Path) -> None:
    model = net()
    prepared = prepare(model, Target.parse("cpu/eager"), EXAMPLE, tmp_path)
    state = load_file(prepared.artifact)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_prepared_call_does_not_follow_later_changes(tmp_path: Path) -> None:
    model, inputs = net(), torch.randn(5, 4)
    prepared = prepare(model, Target.parse("cpu/eager"), EXAMPLE, tmp_path)
    before = prepared.call(inputs)
    nn.init.zeros_(model[0].weight)
    assert torch.equal(prepared.call(inputs), before)


def test_each_compiled_model_has_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # with shared code, torch.compile's limit of 8 recompilations sends the ninth model to eager
    compiled: list[Callable[[Tensor], Tensor]] = []
    monkeypatch.setattr(torch, "compile", lambda run: compiled.append(run) or run)
    target, model, inputs = Target.parse("cpu/compile"), net(), torch.randn(2, 4)
    calls = [prepare(model, target, EXAMPLE, tmp_path).call for _ in range(2)]
    assert compiled[0].__code__ is not compiled[1].__code__
    for call in calls:
        assert torch.equal(call(inputs), expected(model, inputs))


@pytest.mark.slow
def test_nine_models_of_one_class_are_all_compiled(tmp_path: Path) -> None:
    target = Target.parse("cpu/compile")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for width in range(4, 13):
            model = nn.Sequential(nn.Linear(width, width))
            call = prepare(model, target, torch.zeros(1, width), tmp_path).call
            inputs = torch.randn(2, width)
            torch.testing.assert_close(call(inputs), expected(model, inputs))


def test_onnx_file_keeps_its_place_and_needs_onnxruntime(tmp_path: Path) -> None:
    first = prepare(net(), Target.parse("cpu/onnxruntime"), EXAMPLE, tmp_path)
    module = OnnxModule(first.artifact)
    second = prepare(module, Target.parse("cpu/onnxruntime", threads=2), EXAMPLE, tmp_path / "no")
    assert second.artifact == first.artifact and not (tmp_path / "no").exists()
    assert isinstance(second.call, OnnxModule) and second.call.threads == 2
    with pytest.raises(TargetError, match="use cpu/onnxruntime"):
        prepare(module, Target.parse("cpu/eager"), EXAMPLE, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_cuda_without_a_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="needs a CUDA device"):
        prepare(net(), Target.parse("cuda/eager"), EXAMPLE, tmp_path)


@pytest.mark.gpu
def test_cuda_call(tmp_path: Path) -> None:
    model, inputs = net(), torch.randn(5, 4)
    prepared = prepare(model, Target.parse("cuda/eager"), EXAMPLE, tmp_path)
    assert next(model.parameters()).device.type == "cpu"
    outputs = prepared.call(inputs.cuda()).cpu()
    torch.testing.assert_close(outputs, expected(model, inputs), atol=1e-4, rtol=1e-3)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), target_threads(Target(runtime="eager", threads=before + 1)):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_import_brings_no_optional_package() -> None:
    code = (
        "import sys, sartor.runtime, sartor.measure, sartor.export, sartor.compress.int8;"
        "print([n for n in ('onnx', 'onnxruntime', 'onnxscript', 'timm') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
