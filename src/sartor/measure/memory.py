"""Peak memory of one call."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from sartor.core.target import Target
from sartor.runtime.quiet import native_stderr_dropped

__all__ = ["peak_memory_bytes"]


def peak_memory_bytes(
    call: Callable[[], object], target: Target, *, resident_bytes: int = 0
) -> int | None:
    """Return the most memory that is in use during one call.

    On CUDA it is read from the caching allocator (``torch.cuda.max_memory_allocated``). On the CPU
    every allocation and release of torch's allocator during the call is recorded by torch's
    profiler, and the highest sum is taken; memory that a kernel gets elsewhere (as oneDNN may) is
    not seen. ONNX Runtime has no such meter.

    Args:
        call: handles one batch; it has run before.
        target: where it runs.
        resident_bytes: what lives there before the call, that is weights and inputs.

    Returns:
        Resident bytes and the highest amount on top of them, or ``None`` for ONNX Runtime.

    Example:
        >>> target = Target.parse("cpu/eager")
        >>> peak_memory_bytes(lambda: torch.zeros(1000), target)
        4000
    """
    if target.runtime == "onnxruntime":
        return None
    extra = _cuda_bytes(call) if target.device == "cuda" else _cpu_bytes(call)
    return resident_bytes + extra


def _cuda_bytes(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _cpu_bytes(call: Callable[[], object]) -> int:
    with native_stderr_dropped():  # the profiler's native part reports its start and stop there
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            call()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    live = peak = 0
    for event in sorted(changes, key=lambda event: float(event["ts"])):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    return peak
