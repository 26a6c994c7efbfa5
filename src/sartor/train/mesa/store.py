"""What takes the place of a tensor that autograd saves: codes and ranges, and the way back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from sartor.core.errors import TrainingError
from sartor.train.mesa.layout import compact_strides
from sartor.train.mesa.quantizer import decode, unpack_codes

__all__ = ["Codes", "Kept", "StorageTable", "Stored"]


@dataclass(frozen=True, eq=False)
class Codes:
    """The distinct elements of a tensor in few bits.

    Attributes:
        packed: uint8 (bytes,).
        alpha: range of each group, (groups,).
        beta: offset of each group, (groups,).
        bits: of each value.
        shape: (outer, groups, inner), in memory order.
        dtype: of the tensor.
    """

    packed: Tensor
    alpha: Tensor
    beta: Tensor
    bits: int
    shape: tuple[int, int, int]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of codes and ranges."""
        return sum(
            part.numel() * part.element_size() for part in (self.packed, self.alpha, self.beta)
        )

    def restore(self) -> Tensor:
        """The elements side by side in memory order, (count,)."""
        codes = unpack_codes(self.packed, self.bits, self.shape)
        return decode(codes, self.alpha, self.beta, bits=self.bits).to(self.dtype).view(-1)


@dataclass(frozen=True, eq=False)
class Stored:
    """One saved tensor as a view of codes."""

    codes: Codes
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, codes: Codes, x: Tensor, order: tuple[int, ...]) -> Stored:
        """The view of ``codes`` that stands for ``x``, whose memory order is ``order``."""
        return cls(codes, tuple(x.shape), compact_strides(x, order))

    def restore(self) -> Tensor:
        """The tensor, up to the rounding."""
        return self.codes.restore().as_strided(self.shape, self.strides)


class Kept:
    """A saved tensor that stays as it is; an in-place change before its use is an error, as it is
    in autograd.
    """

    def __init__(self, x: Tensor) -> None:
        self.tensor, self.version = x.detach(), x._version

    def restore(self) -> Tensor:
        """The tensor.

        Raises:
            TrainingError: it was changed since it was saved.
        """
        if self.tensor._version != self.version:
            raise TrainingError(
                f"A tensor of shape {tuple(self.tensor.shape)} that the backward pass needs was "
                "changed in place after the forward pass; call backward before changing it, or "
                "change a copy."
            )
        return self.tensor


class StorageTable:
    """What is already stored of every storage that was seen in this forward pass.

    Storages are held weakly: what autograd gave away is freed, and its address is not used again
    while it is a key here.
    """

    def __init__(self) -> None:
        self._rows: dict[int, tuple[StorageWeakRef, dict[Any, Codes]]] = {}
        self.kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._kept: set[int] = set()

    def row(self, x: Tensor, kind: str) -> dict[Any, Codes]:
        """Region and version -> codes, of the storage of ``x``, which counts where it is new."""
        storage = x.untyped_storage()
        known = self._rows.get(storage._cdata)
        if known is None:
            known = self._rows[storage._cdata] = (StorageWeakRef(storage), {})
            self.kinds[kind][0] += storage.nbytes()
        return known[1]

    def keep(self, x: Tensor, kind: str) -> Kept:
        """Keep a tensor as it is; its storage counts once."""
        self.row(x, kind)
        storage = x.untyped_storage()
        if storage._cdata not in self._kept:
            self._kept.add(storage._cdata)
            self.kinds[kind][1] += storage.nbytes()
        return Kept(x)

    def add(self, codes: Codes, kind: str) -> Codes:
        """Count new codes."""
        self.kinds[kind][1] += codes.nbytes
        return codes
