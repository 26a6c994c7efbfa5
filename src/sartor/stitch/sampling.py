"""Which configuration a training step trains."""

from __future__ import annotations

import hashlib

__all__ = ["draw_config"]


def draw_config(seed: int, step: int, count: int) -> int:
    """The configuration of a training step: uniform, and the same in every process and every
    resumed run.

    Example:
        >>> draw_config(0, 7, 23) == draw_config(0, 7, 23)
        True
    """
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % count
