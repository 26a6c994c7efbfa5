"""Files that are either whole or absent: atomic writes, checked reads, no code ever run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sartor.core.errors import ArtifactError

__all__ = ["atomic_path", "check_writable", "read_json", "sha256", "write_json", "write_text"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it into place on success, remove it on failure.

    Example:
        >>> with atomic_path(Path("/tmp/sartor-example.txt")) as temporary:
        ...     _ = temporary.write_text("whole or absent")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, as JSON has neither."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ArtifactError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} does not exist; give the folder that `sartor fit` wrote."
        ) from error
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror}); give the folder that `sartor fit` wrote."
        ) from error
    except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are ValueErrors
        raise ArtifactError(
            f"{path} is not valid JSON ({error}); restore it or fit again."
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_writable(folder: Path, needed_bytes: int) -> None:
    """Make sure, before any work, that ``folder`` can hold ``needed_bytes`` more.

    Raises:
        ArtifactError: the folder cannot be made or written, or its disk is too full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / ".write-check") as probe:
            probe.write_bytes(b"x")
        (folder / ".write-check").unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"The output folder {folder} cannot be written ({error.strerror}); choose another one "
            "with --out."
        ) from error
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ArtifactError(
            f"The disk of {folder} has {free / 1e6:.0f} MB free and this run may write "
            f"{needed_bytes / 1e6:.0f} MB; "
            "make room or choose another disk with --out."
        )
