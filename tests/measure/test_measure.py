from pathlib import Path

import pytest
import torch
from torch import nn

from sartor.core import Target, TargetError
from sartor.measure import count_flops, measure
from sartor.runtime import OnnxModule

EXAMPLE = torch.zeros(1, 16)
QUICK = {"min_seconds": 0.0, "rounds": 3}


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))


def test_eager_measurement(tmp_path: Path) -> None:
    models = {"small": net(8), "large": net(2048)}
    told: list[str] = []
    target = Target.parse("cpu/eager", batch=64)
    threads = torch.get_num_threads()
    found = measure(models, target, EXAMPLE, folder=tmp_path, on_progress=told.append, **QUICK)
    assert list(found) == told == ["small", "large"]
    large = found["large"]
    assert large.flops == 2 * (16 * 2048 + 2048 * 4)
    assert large.params == 16 * 2048 + 2048 + 2048 * 4 + 4
    assert large.size_bytes == (tmp_path / "large" / "model.safetensors").stat().st_size
    assert large.repeats >= 3 and large.latency_ms > 0
    # weights, inputs and, at the highest point, hidden units before and after the ReLU
    assert large.peak_memory_bytes == 4 * (large.params + 64 * 16 + 2 * 64 * 2048)
    assert large.latency_ms > found["small"].latency_ms
    assert torch.get_num_threads() == threads and models["small"].training


def test_onnx_files_are_counted_on_their_float_modules(tmp_path: Path) -> None:
    target = Target.parse("cpu/onnxruntime")
    model = net(8)
    first = measure({"float": model}, target, EXAMPLE, folder=tmp_path, **QUICK)["float"]
    file = OnnxModule(tmp_path / "float" / "model.onnx")
    second = measure({"file": file}, target, EXAMPLE, floats={"file": model}, **QUICK)["file"]
    assert first.size_bytes == second.size_bytes == file.path.stat().st_size
    assert first.flops == second.flops == count_flops(model, EXAMPLE)
    assert first.peak_memory_bytes is None
    with pytest.raises(TargetError, match="give the float module"):
        measure({"file": file}, target, EXAMPLE, **QUICK)


def test_chunks_bound_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import sartor.measure.models as module

    timed: list[list[str]] = []
    real = module.latency
    monkeypatch.setattr(
        module, "latency", lambda calls, **rest: (timed.append(list(calls)), real(calls, **rest))[1]
    )
    models = {name: nn.Linear(16, 4, bias=False) for name in "abcde"}  # 256 bytes each
    found = measure(models, Target.parse("cpu/eager"), EXAMPLE, chunk_bytes=600, **QUICK)
    assert timed == [["a", "b"], ["c", "d"], ["e"]] and list(found) == list("abcde")
    timed.clear()
    measure(models, Target.parse("cpu/eager"), EXAMPLE, chunk_bytes=1, **QUICK)
    assert timed == [["a"], ["b"], ["c"], ["d"], ["e"]]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda/eager", "cuda/compile"])
def test_cuda(name: str) -> None:
    found = measure({"a": net(2048)}, Target.parse(name, batch=64), EXAMPLE, **QUICK)["a"]
    assert found.latency_ms > 0
    assert found.peak_memory_bytes is not None and found.peak_memory_bytes > 4 * found.params


@pytest.mark.slow
def test_compile() -> None:
    models = {"a": net(8), "b": net(16)}
    found = measure(models, Target.parse("cpu/compile", batch=4), EXAMPLE, **QUICK)
    assert found["a"].peak_memory_bytes is not None and found["b"].latency_ms > 0
