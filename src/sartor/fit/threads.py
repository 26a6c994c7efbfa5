"""Threads of training on the CPU: small models run on one, where the barriers of several cost more
than they save.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["SMALL_PARAMS", "training_threads"]

#: models below this many parameters train on one thread
SMALL_PARAMS = 3_000_000


@contextmanager
def training_threads(params: int) -> Iterator[None]:
    """Use one thread for models of fewer than :data:`SMALL_PARAMS` parameters; give the old number
    back afterwards.

    Example:
        >>> with training_threads(1000):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if params < SMALL_PARAMS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
