"""8-bit integers in ``fit``, through ONNX Runtime: dynamic ranges, or ranges from calibration
data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from sartor.compress.int8 import (
    Int8DynamicConfig,
    Int8StaticConfig,
    quantize_dynamic,
    quantize_static,
)
from sartor.core import Family, Move, MoveContext, MoveReport, MoveResult, Step
from sartor.runtime.onnx import OnnxModule, to_onnx

__all__ = ["DynamicInt8Move", "StaticInt8Move"]

_FILE = "model.onnx"
#: every move whose result is a float module
_AFTER = frozenset({"start", "prune", "litv2", "hvt", "ecoformer", "spvit"})


@dataclass(frozen=True, kw_only=True)
class DynamicInt8Move(Move):
    """Quantise weights ahead of time and activations at run time."""

    id: ClassVar[str] = "int8-dynamic"
    runtimes: ClassVar[frozenset[str]] = frozenset({"onnxruntime"})
    after: ClassVar[frozenset[str]] = _AFTER
    artifact: ClassVar[bool] = True

    config: Int8DynamicConfig = field(default_factory=Int8DynamicConfig)

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Quantise the model's ONNX file."""
        source = _float_file(model, context)
        quantize_dynamic(source, context.folder / _FILE, self.config)
        return _result(self.id, asdict(self.config), source, context)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Open the quantised file."""
        return OnnxModule(folder / _FILE)


@dataclass(frozen=True, kw_only=True)
class StaticInt8Move(Move):
    """Quantise weights and activations with ranges found on training inputs."""

    id: ClassVar[str] = "int8-static"
    runtimes: ClassVar[frozenset[str]] = frozenset({"onnxruntime"})
    after: ClassVar[frozenset[str]] = _AFTER
    artifact: ClassVar[bool] = True

    config: Int8StaticConfig = field(default_factory=Int8StaticConfig)
    samples: int = 128

    def apply(self, model: nn.Module, context: MoveContext) -> MoveResult:
        """Calibrate on the selection data, which no model was trained on, and quantise the model's
        ONNX file.
        """
        source = _float_file(model, context)
        quantize_static(source, context.folder / _FILE, _inputs(context, self.samples), self.config)
        return _result(self.id, {**asdict(self.config), "samples": self.samples}, source, context)

    @classmethod
    def rebuild(cls, base: Family | nn.Module, step: Step, folder: Path) -> nn.Module:
        """Open the quantised file."""
        return OnnxModule(folder / _FILE)


def _float_file(model: nn.Module, context: MoveContext) -> Path:
    if context.deployed is not None:
        return context.deployed
    path = context.folder / "float.onnx"
    to_onnx(model, context.task.example, path)
    return path


def _inputs(context: MoveContext, samples: int) -> Any:
    taken = 0
    for inputs, _ in context.task.selection:
        if taken >= samples:
            return
        yield inputs[: samples - taken]
        taken += len(inputs)


def _result(id: str, config: dict[str, Any], source: Path, context: MoveContext) -> MoveResult:
    path = context.folder / _FILE
    before, after = ({"size_bytes": float(p.stat().st_size)} for p in (source, path))
    model = OnnxModule(path, threads=context.target.threads)
    report = MoveReport(before=before, after=after)
    return MoveResult(model=model, step=Step(move=id, config=config), report=report)
