"""ONNX: write a module to one file, and run such a file on the CPU with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sartor.core.errors import ArtifactError, DataError, ExportError
from sartor.core.files import atomic_path
from sartor.core.modes import eval_mode
from sartor.core.packages import require
from sartor.runtime.quiet import collector_paused, generators_kept, quiet

__all__ = ["OnnxModule", "to_onnx"]

_CHATTER = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "onnxscript", "onnx_ir")
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def to_onnx(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write ``model`` to one ONNX file, in eval mode, with a free batch dimension.

    The file has one input called ``input`` and one output called ``output``, holds its weights, and
    names no place of this machine. Intermediate shapes are left out, as ONNX Runtime's quantiser
    needs. The graph optimiser of torch runs: without it ONNX Runtime was 13 % slower on a small ViT
    (width 32, batch 1) and 16 % on a ResNet-18. Mode and global generators are left as found.

    Args:
        model: maps a tensor (B, ...) to a tensor (B, ...).
        example: inputs (B >= 1, ...); only the shape behind the batch and the dtype matter.
        path: file to write; replaced whole or not at all.

    Raises:
        ExportError: the model cannot be written as ONNX.
        MissingPackageError: onnx or onnxscript is not installed.

    Example:
        >>> to_onnx(nn.Linear(4, 2), torch.zeros(1, 4), Path("/tmp/sartor-example.onnx"))
    """
    require("onnx")
    require("onnxscript")
    proto = _portable(_trace(model, example))
    if len(proto.graph.output) != 1:
        raise ExportError(
            f"{type(model).__name__} returns {len(proto.graph.output)} outputs and only one tensor "
            "can be exported; wrap it in a module that returns one."
        )
    try:
        content = proto.SerializeToString()
    except Exception as error:  # protobuf's own error classes differ between its versions
        raise ExportError(
            f"{type(model).__name__} does not fit into one ONNX file of at most 2 GB "
            f"({_line(error)}); use the format torch_export."
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _trace(model: nn.Module, example: Tensor) -> Any:
    """Export and return the ONNX ModelProto."""
    inputs = example[:1].repeat(
        2, *[1] * (example.ndim - 1)
    )  # a batch of 1 would become a constant
    try:
        with (
            eval_mode(model),
            torch.no_grad(),
            generators_kept(),
            collector_paused(),
            quiet(*_CHATTER),
        ):
            program: Any = torch.onnx.export(
                model,
                (inputs,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=["input"],
                output_names=["output"],
                external_data=False,
                verbose=False,
            )
            return program.model_proto
    except Exception as error:  # the exporter lets errors of any class through
        raise ExportError(
            f"{type(model).__name__} cannot be written as ONNX ({_reason(error)}); change that "
            "part "
            "of the model, or use an eager or compiled target."
        ) from error


def _portable(proto: Any) -> Any:
    """Drop intermediate shapes, and the notes that name source files of this machine."""
    graph = proto.graph
    del graph.value_info[:]
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return proto


def _reason(error: BaseException) -> str:
    """Say in one line what the innermost cause says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _line(error)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


class OnnxModule(nn.Module):
    """An ONNX file that is called like a module; it runs on the CPU and has no parameters.

    Attributes:
        path: the file.
        threads: threads of one operator, at least 1.

    Example:
        >>> path = Path("/tmp/sartor-example.onnx")
        >>> to_onnx(nn.Linear(4, 2), torch.zeros(1, 4), path)
        >>> OnnxModule(path)(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, path: Path | str, threads: int = 1) -> None:
        super().__init__()
        self.path = Path(path)
        self.threads = threads
        self._session: Any = None

    @property
    def session(self) -> Any:
        """The ``onnxruntime.InferenceSession``, made at first use.

        Raises:
            ArtifactError: the file is missing or damaged.
            MissingPackageError: onnxruntime is not installed.
        """
        if self._session is None:
            self._session = _session(self.path, self.threads)
        return self._session

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the file.

        Args:
            inputs: (B, ...) of the shape and dtype of the file's input, on any device.

        Returns:
            (B, ...) on the CPU.

        Raises:
            ArtifactError: the file is missing or damaged.
            DataError: the inputs have a wrong shape or dtype.
        """
        session = self.session
        try:
            outputs = session.run(None, {"input": inputs.detach().cpu().contiguous().numpy()})
        except Exception as error:  # onnxruntime's classes are not public
            raise self._explain(inputs, error) from error
        return torch.from_numpy(outputs[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # a session cannot be copied

    def extra_repr(self) -> str:
        """File name and threads."""
        return f"{self.path.name}, threads={self.threads}"

    def _explain(self, inputs: Tensor, error: Exception) -> DataError | ArtifactError:
        wanted = self.session.get_inputs()[0]
        shape, dtype = wanted.shape, _DTYPES.get(wanted.type, wanted.type)
        given = str(inputs.dtype).removeprefix("torch.")
        fits = len(shape) == inputs.ndim and all(
            not isinstance(size, int) or size == have
            for size, have in zip(shape, inputs.shape, strict=True)
        )
        if fits and given == dtype:
            return ArtifactError(
                f"{self.path} fails while it runs ({_line(error)}); export the model again."
            )
        sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in shape)
        return DataError(
            f"{self.path.name} was given inputs {tuple(inputs.shape)} of {given}, and takes "
            f"({sizes}) of {dtype}; convert the inputs."
        )


def _session(path: Path, threads: int) -> Any:
    onnxruntime = require("onnxruntime")
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; give a file that `sartor export` wrote.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # threads may spin inside a call, as when deployed, but not beside the next model's call
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes are not public
        raise ArtifactError(
            f"{path} is not an ONNX file that can run ({_line(error)}); restore it or export again."
        ) from error
