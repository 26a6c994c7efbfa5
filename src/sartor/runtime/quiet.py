"""Stillness for a while: third-party chatter held back, the garbage collector paused, generators
restored.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch

__all__ = ["collector_paused", "generators_kept", "native_stderr_dropped", "quiet"]


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Hold back Python warnings, prints, and what the named loggers say below an error.

    Meant for calls into tools whose progress notes are no news to a user; what matters is told by
    their results and exceptions.

    Example:
        >>> with quiet("torch.onnx"):
        ...     logging.getLogger("torch.onnx").warning("not shown")
    """
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector, as :mod:`timeit` does; it is resumed only if it was on.

    Example:
        >>> with collector_paused():
        ...     gc.isenabled()
        False
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore torch's global generators (CPU, and CUDA where it is in use) on leaving.

    Example:
        >>> with generators_kept():
        ...     _ = torch.rand(3)
    """
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if used else ()
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def native_stderr_dropped() -> Iterator[None]:
    """Drop what compiled code writes to the process's standard error, for a short while.

    Python's own standard error goes the same way, also from other threads; keep the stretch short.

    Example:
        >>> with native_stderr_dropped():
        ...     pass
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
