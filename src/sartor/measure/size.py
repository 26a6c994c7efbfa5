"""Bytes: of files, and of a module's values in memory."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sartor.core.errors import ArtifactError

__all__ = ["file_bytes", "module_bytes"]


def file_bytes(path: Path) -> int:
    """Return the size of a file, or of all files below a folder.

    Raises:
        ArtifactError: there is nothing at ``path``.
    """
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; give a file or folder that does.")
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in files)


def module_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers; one that is shared counts once.

    Example:
        >>> module_bytes(nn.Linear(4, 2))
        40
    """
    return sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
