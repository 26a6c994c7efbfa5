"""Write a model to a file that other programs run, and prove that the numbers are the same.

An ONNX file cannot run code of its own when it is opened. A ``.pt2`` file can:
``torch.export.load`` unpickles parts of it. It is read here only right after it was written; sartor
opens no ``.pt2`` file that it is given, and neither should anyone who does not know who wrote it.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sartor.core.errors import ExportError, nearest
from sartor.core.files import atomic_path
from sartor.core.modes import eval_mode
from sartor.runtime import OnnxModule, to_onnx
from sartor.runtime.quiet import generators_kept, quiet

__all__ = ["FORMATS", "TOLERANCE", "ExportReport", "export"]

FORMATS = ("onnx", "torch_export")
#: largest accepted difference of an output, relative to the largest output
TOLERANCE = 1e-4
_BATCHES = (1, 3, 8)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written and how it was checked.

    Attributes:
        format: ``onnx`` or ``torch_export``.
        path: the file.
        max_abs_diff: largest difference to the eager model over fresh inputs in several batch
            sizes.
        size_bytes: of the file.
        verified: whether that difference is within :data:`TOLERANCE` of the largest output.
    """

    format: str
    path: Path
    max_abs_diff: float
    size_bytes: int
    verified: bool


def export(model: nn.Module, example: Tensor, path: Path, *, format: str) -> ExportReport:
    """Write ``model``, read the file back and compare it with the eager model.

    The file takes any batch size. It is compared on fresh inputs in batches of 1, 3 and 8, in eval
    mode, and only moved to ``path`` when all outputs agree to :data:`TOLERANCE` of the largest.

    Args:
        model: on the CPU, maps (B, ...) to (B, ...); left as it is. Of an ``OnnxModule`` the file
            is copied.
        example: inputs (B >= 1, ...); fresh inputs are drawn with its mean and spread if they are
            floating-point numbers, and are its rows, shuffled, if they are integers.
        path: file to write, usually ``.onnx`` or ``.pt2``; replaced whole or not at all.
        format: ``onnx``, or ``torch_export`` (``torch.export``'s ``.pt2``).

    Raises:
        ExportError: the format does not exist, the model cannot be written in it, or the numbers
            differ; no file is left.

    Example:
        >>> model, path = nn.Linear(4, 2), Path("/tmp/sartor-example.onnx")
        >>> export(model, torch.zeros(1, 4), path, format="onnx").verified
        True
    """
    if format not in FORMATS:
        raise ExportError(f"There is no export format {format!r}; {nearest(format, FORMATS)}")
    write = _writer(model, format)
    with atomic_path(path) as temporary:
        write(model, example, temporary)
        difference, scale = _compare(model, _read(temporary, format), example)
        if not difference <= TOLERANCE * scale:  # also catches NaN
            raise ExportError(
                f"{type(model).__name__} exported as {format} gives outputs that differ by "
                f"{difference:.2g} where {TOLERANCE * scale:.2g} is allowed; "
                "look for code that depends on the values or on the batch size."
            )
    return ExportReport(
        format=format,
        path=path,
        max_abs_diff=difference,
        size_bytes=path.stat().st_size,
        verified=True,
    )


def _writer(model: nn.Module, format: str) -> Callable[[nn.Module, Tensor, Path], None]:
    if not isinstance(model, OnnxModule):
        return to_onnx if format == "onnx" else _to_torch_export
    if format != "onnx":
        raise ExportError(
            f"{model.path.name} is an ONNX file and cannot be written as {format}; use the format "
            "onnx."
        )
    return _copy


def _copy(model: nn.Module, example: Tensor, path: Path) -> None:
    assert isinstance(model, OnnxModule)
    shutil.copyfile(model.path, path)


def _read(path: Path, format: str) -> Callable[[Tensor], Tensor]:
    """Open the file that was just written."""
    if format == "onnx":
        return OnnxModule(path)
    with quiet("torch.export", "torch.fx"):
        run: Callable[[Tensor], Tensor] = torch.export.load(str(path)).module()
    return run


def _to_torch_export(model: nn.Module, example: Tensor, path: Path) -> None:
    inputs = example[:1].repeat(
        2, *[1] * (example.ndim - 1)
    )  # a batch of 1 would become a constant
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    try:
        with (
            eval_mode(model),
            torch.no_grad(),
            generators_kept(),
            quiet("torch.export", "torch.fx"),
        ):
            program = torch.export.export(model, (inputs,), dynamic_shapes=shapes)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # names source files of this machine
            content = io.BytesIO()  # given a path, torch writes its name into the file
            torch.export.save(program, content)
    except Exception as error:  # torch lets errors of any class through
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{type(model).__name__} cannot be written by torch.export ({reason}); change that "
            "part "
            "of the model, or use the format onnx."
        ) from error
    path.write_bytes(content.getvalue())


@torch.no_grad()
def _compare(
    model: nn.Module, exported: Callable[[Tensor], Tensor], example: Tensor
) -> tuple[float, float]:
    """Return the largest difference of an output, and the largest eager output."""
    generator = torch.Generator().manual_seed(0)
    differences, scales = [], []
    with eval_mode(model), generators_kept():
        for size in _BATCHES:
            inputs = _fresh(example, size, generator)
            expected = model(inputs)
            differences.append(float((exported(inputs) - expected).abs().max()))
            scales.append(float(expected.abs().max()))
    return max(differences), max(scales)


def _fresh(example: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Inputs (size, ...) that the export has not seen."""
    if not example.is_floating_point():
        return example[torch.randint(len(example), (size,), generator=generator)]
    spread = float(example.float().std()) if example.numel() > 1 else 0.0
    noise = torch.randn(size, *example.shape[1:], generator=generator)
    return (float(example.float().mean()) + (spread or 1.0) * noise).to(example.dtype)
