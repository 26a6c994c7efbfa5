"""Optional packages: imported at use, and named in the error when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from sartor.core.errors import MissingPackageError

__all__ = ["require"]

_EXTRAS = {
    "accelerate": "train",
    "datasets": "hub",
    "diffusers": "diffusion",
    "fastapi": "serve",
    "matplotlib": "report",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "PIL": "vision",
    "plotly": "report",
    "prometheus_client": "serve",
    "ray": "ray",
    "sklearn": "vision",
    "timm": "vision",
    "torch_pruning": "prune",
    "torchao": "lowbit",
    "torchvision": "vision",
    "transformers": "llm",
    "uvicorn": "serve",
}


def require(name: str) -> Any:
    """Import an optional module, or say which extra brings it.

    Args:
        name: dotted module name; its first part must be one of sartor's optional packages.

    Returns:
        The imported module.

    Raises:
        MissingPackageError: the package is not installed.

    Example:
        >>> onnxruntime = require("onnxruntime")
    """
    package = name.split(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package:
            raise
        extra = _EXTRAS[package]
        raise MissingPackageError(
            f"This needs the package {package!r}, which is not installed: pip install "
            f"'sartor[{extra}]'."
        ) from error
