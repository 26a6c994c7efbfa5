"""Targets: the place where a model will serve. Every latency belongs to one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sartor.core.errors import TargetError, nearest
from sartor.core.schema import check_keys

__all__ = ["TARGETS", "Target"]

TARGETS = ("cpu/eager", "cpu/compile", "cpu/onnxruntime", "cuda/eager", "cuda/compile")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Device, runtime, threads (of one operator, CPU only) and batch size.

    Example:
        >>> str(Target.parse("cpu/onnxruntime", threads=2, batch=8))
        'cpu/onnxruntime, 2 threads, batch 8'
    """

    device: str = "cpu"
    runtime: str = "onnxruntime"
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        if self.name not in TARGETS:
            raise TargetError(
                f"The target {self.name!r} does not exist; {nearest(self.name, TARGETS)}"
            )
        for field in ("threads", "batch"):
            if getattr(self, field) < 1:
                raise TargetError(
                    f"The target's {field} must be at least 1, got {getattr(self, field)}."
                )

    @classmethod
    def parse(
        cls, text: str | Target | None, *, threads: int | None = None, batch: int | None = None
    ) -> Target:
        """Read ``device/runtime``; ``None`` is cuda/compile where there is a GPU, else
        cpu/onnxruntime.

        Raises:
            TargetError: the target does not exist.
        """
        if text is None:
            import torch

            text = "cuda/compile" if torch.cuda.is_available() else "cpu/onnxruntime"
        if isinstance(text, str):
            device, _, runtime = text.partition("/")
            text = cls(device=device, runtime=runtime)
        return replace(
            text,
            threads=text.threads if threads is None else threads,
            batch=text.batch if batch is None else batch,
        )

    @property
    def name(self) -> str:
        """``device/runtime``."""
        return f"{self.device}/{self.runtime}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any) -> Target:
        """Inverse of :meth:`to_dict`."""
        words, counts = dict.fromkeys(("device", "runtime"), str), ("threads", "batch")
        check_keys(value, "The target", {**words, **dict.fromkeys(counts, int)}, {})
        return cls(**value)

    def __str__(self) -> str:
        return f"{self.name}, {self.threads} thread{'s' * (self.threads > 1)}, batch {self.batch}"
