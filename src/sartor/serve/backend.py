"""Backends: what computes the outputs of a chosen point."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from sartor.core import ArtifactError, Point, Target
from sartor.runtime import OnnxModule, target_threads

__all__ = ["Array", "Backend", "PointBackend", "eager_points", "onnx_points", "resident_bytes"]

Array = NDArray[Any]


class Backend(Protocol):
    """Computes outputs; one thread at a time calls it."""

    @property
    def kind(self) -> str:
        """``onnx``, ``eager`` or ``elastic``."""

    @property
    def accuracies(self) -> Mapping[str, float]:
        """Accuracy of each point that it can run, by id."""

    @property
    def keep(self) -> int:
        """Points that it holds in memory at the same time, at least 1."""

    def run(self, id: str, inputs: Array) -> Array:
        """Compute a point's outputs.

        Args:
            id: of the point.
            inputs: (B, ...) float32.

        Returns:
            (B, ...).
        """

    def memory(self) -> dict[str, int]:
        """Bytes of resident memory that each loaded point, or what they share, took."""


class PointBackend:
    """One model per point, loaded at its first use; over ``keep``, the one unused for longest
    goes.

    Args:
        kind: its name.
        points: of a frontier, with files.
        open: loads a point and returns what maps inputs (B, ...) to outputs (B, ...).
        target: gives threads and device.
        keep: models held at the same time, at least 1; ``None`` holds all.
    """

    def __init__(
        self,
        kind: str,
        points: Sequence[Point],
        open: Callable[[Point], Callable[[Tensor], Tensor]],
        target: Target,
        *,
        keep: int | None = None,
    ) -> None:
        self.kind = kind
        self.accuracies: Mapping[str, float] = {p.id: p.accuracy for p in points}
        self.keep = keep or max(1, len(points))
        self._points = {p.id: p for p in points}
        self._open, self._target = open, target
        self._loaded: OrderedDict[str, tuple[Callable[[Tensor], Tensor], int]] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, id: str, inputs: Array) -> Array:
        """See :class:`Backend`.

        Raises:
            ArtifactError: the point's files are missing or were changed.
        """
        with self._lock:
            call = self._load(id)
            with torch.inference_mode(), target_threads(self._target):
                outputs = call(torch.from_numpy(inputs).to(self._target.device))
                result: Array = outputs.float().cpu().numpy()
        return result

    def memory(self) -> dict[str, int]:
        """See :class:`Backend`."""
        return {id: size for id, (_, size) in list(self._loaded.items())}

    def _load(self, id: str) -> Callable[[Tensor], Tensor]:
        if id not in self._loaded:
            while len(self._loaded) >= self.keep:
                self._loaded.popitem(last=False)
            before = resident_bytes()
            call = self._open(self._points[id])
            self._loaded[id] = (call, max(0, resident_bytes() - before))
        self._loaded.move_to_end(id)
        return self._loaded[id][0]


def onnx_points(
    points: Sequence[Point], target: Target, *, keep: int | None = None
) -> PointBackend:
    """ONNX Runtime on the CPU: one session per point.

    Raises:
        ArtifactError: a point has no ONNX file.
    """
    without = [p.id for p in points if "model.onnx" not in p.files]
    if without or not points:
        raise ArtifactError(
            f"The point {(without or ['(none)'])[0]} has no model.onnx, as the run was made for "
            f"{target.name}; use --backend eager, or fit for cpu/onnxruntime."
        )

    def open(point: Point) -> Callable[[Tensor], Tensor]:
        point.check_files()
        module = OnnxModule((point.folder or Path()) / "model.onnx", target.threads)
        assert module.session is not None  # made now, not at the first request
        return module

    cpu = Target(device="cpu", runtime="onnxruntime", threads=target.threads, batch=target.batch)
    return PointBackend("onnx", points, open, cpu, keep=keep)


def eager_points(
    points: Sequence[Point],
    target: Target,
    *,
    keep: int | None = None,
    factories: Sequence[str] = (),
) -> PointBackend:
    """Eager torch: one module per point, rebuilt from its recipe."""

    def open(point: Point) -> Callable[[Tensor], Tensor]:
        model = point.load_model(factories=factories).requires_grad_(False)
        return model.to(target.device)

    return PointBackend("eager", points, open, target, keep=keep)


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
