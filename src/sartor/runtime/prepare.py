"""From a module to what a target runs, and the file that would be deployed there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from sartor.core.errors import TargetError
from sartor.core.files import atomic_path
from sartor.core.target import Target
from sartor.runtime.onnx import OnnxModule, to_onnx

__all__ = ["Prepared", "check_target", "prepare", "target_threads"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model as its target runs it.

    Attributes:
        call: maps inputs (B, ...) on the target's device to outputs (B, ...); call it inside
            :func:`target_threads`.
        artifact: the file that is deployed: ``.onnx`` for ONNX Runtime, else ``.safetensors``.
    """

    call: Callable[[Tensor], Tensor]
    artifact: Path

    @property
    def size_bytes(self) -> int:
        """Bytes of the deployed file."""
        return self.artifact.stat().st_size


@contextmanager
def target_threads(target: Target) -> Iterator[None]:
    """Give torch's operators the target's number of threads, and the old number back afterwards.

    Example:
        >>> with target_threads(Target(runtime="eager", threads=1)):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(target.threads if target.device == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_target(target: Target) -> None:
    """Make sure that this machine has the target's device.

    Raises:
        TargetError: it has not.
    """
    if target.device == "cuda" and not torch.cuda.is_available():
        raise TargetError(
            f"The target {target.name!r} needs a CUDA device and torch finds none; use "
            "cpu/onnxruntime, cpu/eager or cpu/compile."
        )


def prepare(model: nn.Module, target: Target, example: Tensor, folder: Path) -> Prepared:
    """Turn a module into what ``target`` runs; the module itself is left as it is.

    Args:
        model: a float module, or an :class:`OnnxModule` (for ONNX Runtime only).
        target: where it will run.
        example: inputs (B >= 1, ...); only the shape behind the batch and the dtype matter.
        folder: gets ``model.onnx`` or ``model.safetensors``; an :class:`OnnxModule` keeps its own
            file.

    Returns:
        The call and the file. Eager and compiled calls hold a copy of the weights; a compiled one
        compiles at its first call.

    Raises:
        TargetError: the target is not available here or cannot run the model.
        ExportError: the model cannot be written as ONNX.

    Example:
        >>> target = Target.parse("cpu/eager")
        >>> prepared = prepare(nn.Linear(4, 2), target, torch.zeros(1, 4), Path("/tmp"))
        >>> prepared.call(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """
    check_target(target)
    if target.runtime == "onnxruntime":
        return _for_onnxruntime(model, target, example, folder)
    if isinstance(model, OnnxModule):
        raise TargetError(
            f"{model.path.name} is an ONNX file and the target {target.name!r} runs modules; use "
            "cpu/onnxruntime."
        )
    artifact = folder / "model.safetensors"
    with atomic_path(artifact) as temporary:
        save_model(model, str(temporary))
    return Prepared(call=_call(model, target), artifact=artifact)


def _for_onnxruntime(model: nn.Module, target: Target, example: Tensor, folder: Path) -> Prepared:
    if isinstance(model, OnnxModule):
        path = model.path
    else:
        path = folder / "model.onnx"
        to_onnx(model, example, path)
    return Prepared(call=OnnxModule(path, target.threads), artifact=path)


def _call(model: nn.Module, target: Target) -> Callable[[Tensor], Tensor]:
    own = copy.deepcopy(model).eval().requires_grad_(False).to(target.device)
    run = _compiled(own) if target.runtime == "compile" else own

    def call(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            output: Tensor = run(inputs)
        return output

    return call


def _compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compile a module apart from all others.

    torch.compile counts recompilations per code object, and all modules of one class share the
    code of their forward: the ninth would silently run in eager mode. So each gets a code object.
    """

    def run(inputs: Tensor) -> Tensor:
        output: Tensor = model(inputs)
        return output

    run.__code__ = run.__code__.replace()
    compiled: Callable[[Tensor], Tensor] = torch.compile(run)
    return compiled
