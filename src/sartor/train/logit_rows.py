"""Rows of logits as they are stored: whole or their top k, in single or half precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sartor.core.errors import TrainingError

__all__ = ["LogitFormat"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class LogitFormat:
    """How rows of logits are stored.

    Attributes:
        dtype: ``float32`` keeps every bit, ``float16`` errs by at most 2^-11 of a logit.
        top_k: how many of the highest logits are kept, below the number of classes; the others
            then share equally what probability they have together. ``None`` keeps all.
    """

    dtype: str = "float16"
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES or (self.top_k is not None and self.top_k < 1):
            raise TrainingError(
                "Logits are kept as float32 or float16 and top_k is at least 1 or None, got "
                f"{self.dtype!r} and {self.top_k}."
            )

    def encode(self, logits: Tensor) -> dict[str, Tensor]:
        """Tensors to store for logits (N, K), float32.

        Raises:
            TrainingError: there are no more than ``top_k`` classes, or float16 cannot hold them.
        """
        kept = {"logits": logits}
        if self.top_k is not None:
            kept = self._top(logits, self.top_k)
        stored = {k: v if k == "classes" else v.to(_DTYPES[self.dtype]) for k, v in kept.items()}
        if not all(bool(torch.isfinite(v).all()) for k, v in stored.items() if k != "classes"):
            raise TrainingError(
                f"The teacher's logits reach {logits.abs().max().item():.3g}, which float16 "
                'cannot hold; keep them as dtype="float32".'
            )
        return stored

    def decode(self, stored: Mapping[str, Tensor], rows: Tensor, classes: int) -> Tensor:
        """Logits (B, K), float32, of chosen rows (B,) of what was stored."""
        if self.top_k is None:
            return stored["logits"][rows].float()
        each = stored["rest"][rows].float() - math.log(classes - self.top_k)  # (B, 1)
        whole = each.expand(-1, classes).clone()  # (B, K)
        at = stored["classes"][rows].long()  # (B, top_k)
        return whole.scatter_(1, at, stored["logits"][rows].float())

    def deviation(self, decoded: Tensor, logits: Tensor) -> float:
        """Largest |decoded - live| / (1 + |live|) over what was kept of rows (B, K)."""
        if self.top_k is not None:
            at = decoded.topk(self.top_k, dim=1).indices
            decoded, logits = decoded.gather(1, at), logits.gather(1, at)
        return float(((decoded - logits).abs() / (1 + logits.abs())).max())

    @staticmethod
    def _top(logits: Tensor, count: int) -> dict[str, Tensor]:
        if count >= logits.shape[1]:
            raise TrainingError(
                f"top_k={count} keeps all of {logits.shape[1]} classes; give less, or None."
            )
        values, at = logits.topk(count, dim=1)  # (N, top_k)
        others = logits.scatter(1, at, -math.inf)  # (N, K)
        rest = others.logsumexp(dim=1, keepdim=True)  # (N, 1)
        return {"logits": values, "classes": at.to(torch.int32), "rest": rest}
