"""A fixed view of training data: item i is the same whenever it is fetched, augmentation
included.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from sartor.core.errors import DataError
from sartor.data.memory import ImageTensors

__all__ = ["FixedView", "never_varies"]

#: items that stand for the data in their fingerprint
_SAMPLED = 64


def never_varies(loader: Any) -> bool:
    """Whether item i of a loader is known to be the same in every epoch: tensors in memory, given
    out as they are.
    """
    data = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return False
    if isinstance(data, ImageTensors):
        return True
    return isinstance(data, TensorDataset) and loader.collate_fn is default_collate


class FixedView(Dataset[Any]):
    """Items of a loader's dataset, each drawn with random states that follow its index.

    Whatever draws from the global states of torch, numpy and Python gives the same for the same
    index. Data in memory draw nothing and are fetched at full speed.

    Args:
        loader: a torch DataLoader with a batch size over a dataset with a length.
        seed: of the augmentation, at least 0.

    Raises:
        DataError: the loader is of another kind, or its items are random beyond these states.
    """

    def __init__(self, loader: Any, *, seed: int = 0) -> None:
        data = getattr(loader, "dataset", None)
        if (
            not isinstance(loader, DataLoader)
            or loader.batch_size is None
            or not (hasattr(data, "__len__") and hasattr(data, "__getitem__"))
        ):
            raise DataError(
                "Cached logits belong to the numbered items of a dataset, so they need a torch "
                f"DataLoader with a batch_size over one with a length, got {type(loader).__name__}."
            )
        self.data: Any = data
        self.seed = seed
        self._collate: Any = loader.collate_fn
        self._draws = not isinstance(data, ImageTensors | TensorDataset)
        if self.fingerprint() != self.fingerprint():
            raise DataError(
                "The training data give another item each time although every global random state "
                "is fixed, so no logits of them can be cached; draw from torch's global state, "
                "or distil from the live teacher."
            )

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs (B, ...) and targets (B, ...) of these items, collated as the loader does it."""
        if not self._draws and hasattr(self.data, "__getitems__"):
            items = self.data.__getitems__(list(indices))
        else:
            items = [self._item(index) for index in indices]
        inputs, targets = self._collate(items)
        return inputs, targets

    def fingerprint(self) -> str:
        """SHA-256 of the number of items and of 64 of them, evenly spread."""
        count = len(self)
        digest = hashlib.sha256(str(count).encode())
        chosen = sorted({round(i * (count - 1) / (_SAMPLED - 1)) for i in range(_SAMPLED)})
        for part in self.batch(chosen) if count else ():
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _item(self, index: int) -> Any:
        if not self._draws:
            return self.data[index]
        with _drawn(self.seed * 1_000_003 + index):
            return self.data[index]


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    """Fix the global random states of the CPU; leave them as they were found."""
    plain, array = random.getstate(), np.random.get_state()  # noqa: NPY002 (what users draw from)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(array)  # noqa: NPY002
