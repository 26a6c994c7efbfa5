"""8-bit integers for ONNX files, by ONNX Runtime's quantiser, with settings chosen by measurement.

Source: ONNX Runtime's quantisation tool. Own: which nodes are quantised (see below).

Measured on one thread of an AMD EPYC (Zen 4, VNNI) with ONNX Runtime 1.31: speed relative to the
float ONNX file in the same interleaved run (:func:`sartor.measure.latency`), batch 1 / batch 32.

=======================  ===========  ===========  ==========  =========
model                    dynamic      static       file bytes  float ms
=======================  ===========  ===========  ==========  =========
ViT 16, 17 tokens        0.91 / 0.98  0.83 / 0.94  0.73, 0.74  0.12, 1.3
ViT 32, 17 tokens        0.97 / 1.08  0.89 / 1.05  0.41, 0.42  0.14, 2.0
ViT 64, 17 tokens        1.15 / 1.43  1.04 / 1.34  0.30, 0.31  0.20, 3.6
ViT 128, 65 tokens       1.78 / 1.79  1.71 / 1.78  0.28, 0.28  1.5, 44
ViT 192, 65 tokens       1.92 / 2.02  1.89 / 2.02  0.27, 0.27  3.1, 94
ResNet-18, 32 x 32       0.95 / 0.99  3.05 / 1.47  1.00, 0.25  1.8, 19
=======================  ===========  ===========  ==========  =========

File bytes are relative to the float file (dynamic, static). The ViTs are 4 blocks deep; with random
weights their logits moved by at most 5 % of the largest one. Below width 64 int8 saves bytes and
hardly any time, and dynamic int8 does nothing for a convolutional net.

Settings that lose, and are therefore not offered or not the default (same machine and method):

- unsigned 8-bit weights: 1.3 times the float speed on the ViT of width 192, where signed weights
  reach 1.9;
- dynamic quantisation of convolutions: 0.33 / 0.20 times the float speed on a ResNet-18;
- signed activations with quantised convolutions: 0.85 / 0.60 on a ResNet-18;
- static quantisation of all matrix products and their outputs: slower (1.5 instead of 1.9 on the
  ViT of width 192), and wrong: ONNX Runtime then runs the softmax on integers and the logits of the
  ViTs are off by 57 to 77 % of their largest value, instead of 2 to 5 %;
- the operator-wise format (QOperator) instead of quantise-dequantise pairs: 2.4 instead of 2.8 on a
  ResNet-18 at batch 1;
- ONNX Runtime's pre-processing pass: no gain on a file that torch has optimised.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sartor.compress._int8_graph import FOLLOWERS, WEIGHTED, Plan, input_shape, load, plan_nodes
from sartor.core.errors import DataError, ExportError, RecipeError, SartorError, nearest
from sartor.core.files import atomic_path
from sartor.core.move import MoveReport
from sartor.core.packages import require
from sartor.measure import cpu_flags
from sartor.runtime.quiet import quiet

__all__ = ["Int8DynamicConfig", "Int8StaticConfig", "quantize_dynamic", "quantize_static"]


@dataclass(frozen=True, kw_only=True)
class Int8DynamicConfig:
    """Settings of dynamic quantisation.

    Attributes:
        op_types: operators to quantise, of MatMul, Gemm and Conv; those whose weight is constant.
        per_channel: one scale for each output channel instead of one for each weight; as fast.
        reduce_range: 7-bit weights, so that sums do not overflow on x86 CPUs without VNNI;
            ``None``: just there.
    """

    op_types: tuple[str, ...] = ("MatMul", "Gemm")
    per_channel: bool = True
    reduce_range: bool | None = None

    def __post_init__(self) -> None:
        _check_op_types(self.op_types)


@dataclass(frozen=True, kw_only=True)
class Int8StaticConfig:
    """Settings of static quantisation.

    Attributes:
        op_types: operators to quantise, of MatMul, Gemm and Conv; those whose weight is constant.
            Additions, ReLUs and poolings between quantised convolutions come along.
        per_channel: one scale for each output channel instead of one for each weight; as fast.
        reduce_range: 7-bit weights, so that sums do not overflow on x86 CPUs without VNNI;
            ``None``: just there.
    """

    op_types: tuple[str, ...] = WEIGHTED
    per_channel: bool = True
    reduce_range: bool | None = None

    def __post_init__(self) -> None:
        _check_op_types(self.op_types)


def quantize_dynamic(source: Path, path: Path, config: Int8DynamicConfig) -> MoveReport:
    """Write an ONNX file with 8-bit weights whose activations are quantised at run time.

    Args:
        source: float ONNX file, as :func:`sartor.runtime.to_onnx` writes it.
        path: file to write; replaced whole or not at all.
        config: what is quantised and how.

    Returns:
        ``size_bytes`` before and after, ``quantized_nodes`` after, and the weighted nodes that were
        left in float.

    Raises:
        ArtifactError: ``source`` is missing or damaged.
        ExportError: ONNX Runtime cannot quantise it.
        NoEffectError: it has nothing to quantise.

    Example:
        >>> report = quantize_dynamic(source, path, Int8DynamicConfig())  # doctest: +SKIP
    """
    proto = load(source)
    plan = plan_nodes(proto, config.op_types)
    # the quantiser first turns each Gemm into a MatMul of that longer name, then chooses
    others = [node.name for node in proto.graph.node if node.name not in plan.nodes]
    ort = require("onnxruntime.quantization")
    with _explained(source), atomic_path(path) as temporary, quiet("root"):
        ort.quantize_dynamic(
            proto,
            str(temporary),
            op_types_to_quantize=sorted({*config.op_types, "MatMul"}),
            nodes_to_exclude=[*others, *(f"{name}_MatMul" for name in others)],
            per_channel=config.per_channel,
            reduce_range=_reduce_range(config.reduce_range),
            weight_type=ort.QuantType.QInt8,
        )
    return _report(source, path, plan)


def quantize_static(
    source: Path, path: Path, batches: Iterable[Tensor], config: Int8StaticConfig
) -> MoveReport:
    """Write an ONNX file with 8-bit weights and activations, whose ranges come from real inputs.

    Args:
        source: float ONNX file, as :func:`sartor.runtime.to_onnx` writes it.
        path: file to write; replaced whole or not at all.
        batches: inputs (B, ...) like those that the model will see, taken one batch at a time; the
            lowest and the highest activation over all of them bound each range.
        config: what is quantised and how.

    Returns:
        As :func:`quantize_dynamic`.

    Raises:
        ArtifactError: ``source`` is missing or damaged.
        DataError: there is no batch, or the batches do not fit the file.
        ExportError: ONNX Runtime cannot quantise it.
        NoEffectError: it has nothing to quantise.

    Example:
        >>> report = quantize_static(source, path, [images], config)  # doctest: +SKIP
    """
    proto = load(source)
    plan = plan_nodes(proto, config.op_types)
    ort = require("onnxruntime.quantization")
    stream = _Batches(batches, input_shape(proto))
    with _explained(source), atomic_path(path) as temporary, quiet("root"):
        ort.quantize_static(
            proto,
            str(temporary),
            stream,
            quant_format=ort.QuantFormat.QDQ,
            op_types_to_quantize=sorted({*config.op_types, *FOLLOWERS}),
            nodes_to_quantize=[*plan.nodes, *plan.followers],
            per_channel=config.per_channel,
            reduce_range=_reduce_range(config.reduce_range),
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
    return _report(source, path, plan)


@contextmanager
def _explained(source: Path) -> Iterator[None]:
    """Say in one sentence what ONNX Runtime cannot quantise."""
    try:
        yield
    except SartorError:
        raise
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ExportError(
            f"ONNX Runtime cannot quantise {source.name} ({reason}); leave int8 out of the moves."
        ) from error


class _Batches:
    """Batches as ONNX Runtime's calibration asks for them, each checked before it runs."""

    def __init__(self, batches: Iterable[Tensor], shape: tuple[int, ...]) -> None:
        self._batches = iter(batches)
        self._shape = shape
        self._seen = 0

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by input name, or ``None`` after the last."""
        inputs = next(self._batches, None)
        if inputs is None:
            if not self._seen:
                raise DataError("Static quantisation was given no batch; give at least one.")
            return None
        if inputs.shape[1:] != self._shape or inputs.dtype != torch.float32 or not len(inputs):
            raise DataError(
                f"A calibration batch has shape {tuple(inputs.shape)} and dtype {inputs.dtype}, "
                "and "
                f"the model takes (at least 1, {', '.join(map(str, self._shape))}) of "
                "torch.float32; give inputs as the model will see them."
            )
        self._seen += 1
        return {"input": inputs.detach().cpu().contiguous().numpy()}


def _check_op_types(op_types: tuple[str, ...]) -> None:
    if not op_types:
        raise RecipeError("op_types is empty; give some of MatMul, Gemm and Conv.")
    for name in op_types:
        if name not in WEIGHTED:
            raise RecipeError(f"op_types has {name!r}; {nearest(name, WEIGHTED)}")


def _reduce_range(asked: bool | None) -> bool:
    if asked is not None:
        return asked
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and not cpu_flags() & {"avx512_vnni", "avx_vnni"}


def _report(source: Path, path: Path, plan: Plan) -> MoveReport:
    return MoveReport(
        before={"size_bytes": source.stat().st_size},
        after={"size_bytes": path.stat().st_size, "quantized_nodes": len(plan.nodes)},
        skipped=plan.skipped,
    )
