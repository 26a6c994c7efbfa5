"""The machine and the software that numbers were measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["cpu_flags", "environment"]

_PACKAGES = ("torch", "onnxruntime", "onnx", "onnxscript", "timm", "torch-pruning", "numpy")


def environment() -> dict[str, Any]:
    """Describe the machine: JSON-ready, with no path and no host name in it.

    Returns:
        ``python``, ``platform``, ``cpu``, ``cores`` (that this process may use), ``instructions``
        (the widest that torch uses), ``device`` (the GPU's name or ``cpu``) and ``packages`` (those
        installed, with their versions).

    Example:
        >>> sorted(environment())
        ['cores', 'cpu', 'device', 'instructions', 'packages', 'platform', 'python']
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": _cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": _packages(),
    }


def cpu_flags() -> frozenset[str]:
    """Return the CPU's features as Linux names them (such as ``avx512_vnni``); empty elsewhere."""
    return frozenset(_cpu_field("flags").split())


def _cpu_field(name: str) -> str:
    """Return the first value of a field of ``/proc/cpuinfo``, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in fields if key.strip() == name), "")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
