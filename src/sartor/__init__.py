"""sartor cuts a family of pretrained networks to the budget you have."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Budget": "sartor.core",
    "Family": "sartor.core",
    "Frontier": "sartor.core",
    "Split": "sartor.core",
    "Target": "sartor.core",
    "Task": "sartor.core",
    "distill": "sartor.train",
    "load_family": "sartor.nn",
    "load_task": "sartor.data",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sartor' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
