"""Data for InfoBatch: any shuffled DataLoader, with the index of each sample beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, default_collate

from sartor.core.errors import DataError
from sartor.data.memory import Shuffle, same_loader
from sartor.train.infobatch.draw import InfoBatchSettings
from sartor.train.infobatch.sampler import LossPruningSampler

__all__ = ["IndexedDataset", "prune_data"]


class IndexedDataset(Dataset[Any]):
    """Gives the index of each item as its last part.

    A DataLoader over it takes :meth:`collate` as its ``collate_fn``, as batches are put together
    here, by the process that loads them.

    Args:
        dataset: of tuples, such as (input, target); has a length that does not change.
        collate: puts items together to a batch; default: torch's.

    Raises:
        DataError: the dataset has no length or no items that can be asked for.

    Example:
        >>> IndexedDataset([(0.5, 1), (0.7, 0)])[1]
        (0.7, 0, 1)
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any] = default_collate) -> None:
        mapped = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if isinstance(dataset, IterableDataset) or not mapped:
            raise DataError(
                "InfoBatch keeps a score for each numbered sample, so it needs a dataset with a "
                f"length and items by index, got {type(dataset).__name__}."
            )
        self.dataset, self.count = dataset, len(dataset)
        self._put_together = collate

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        self._check_length()
        return (*_parts(self.dataset[index]), index)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Any, ...]:
        """One batch: what the items are put together to, then the indices (B,)."""
        self._check_length()
        if hasattr(self.dataset, "__getitems__"):
            items = self.dataset.__getitems__(list(indices))
        else:
            items = [self.dataset[index] for index in indices]
        return (*_parts(self._put_together(items)), torch.as_tensor(indices))

    @staticmethod
    def collate(batch: Any) -> Any:
        """The batch as :meth:`__getitems__` made it."""
        return batch

    def _check_length(self) -> None:
        if len(self.dataset) != self.count:
            raise DataError(
                f"The dataset had {self.count} samples and now has {len(self.dataset)}; InfoBatch "
                "needs data that stay the same, so begin a new training with the new data."
            )


def prune_data(
    loader: Any,
    *,
    epochs: int,
    settings: InfoBatchSettings | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Any]:
    """Make the same loader with InfoBatch's sampler and the indices as last part of each batch.

    Args:
        loader: a DataLoader with ``shuffle=True``, or of a built-in task. Its own settings are
            kept; with ``drop_last`` the last few samples of each epoch are left out as before.
        epochs: of the whole training, at least 2.
        settings: see :class:`InfoBatchSettings`.
        rank: of this process, if each goes through its own stripe, as with plain
            DistributedDataParallel; not needed for :func:`~sartor.train.train`.
        world_size: number of these processes.

    Returns:
        A DataLoader whose ``sampler`` is a :class:`LossPruningSampler`.

    Raises:
        DataError: the loader's samples cannot be told apart by their index, or it repeats them.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.zeros(6, 2), torch.arange(6))
        >>> loader = prune_data(DataLoader(data, batch_size=3, shuffle=True), epochs=10)
        >>> inputs, targets, indices = next(iter(loader))
        >>> bool((targets == indices).all())
        True
    """
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        raise DataError(
            "InfoBatch draws the samples of each batch, so it needs a torch DataLoader with a "
            f"batch_size, got {type(loader).__name__}."
        )
    data: Any = IndexedDataset(loader.dataset, loader.collate_fn)
    count, variants = _counts(loader.sampler, len(data))
    sampler = LossPruningSampler(
        count,
        epochs=epochs,
        settings=settings,
        variants=variants,
        rank=rank,
        world_size=world_size,
    )
    return same_loader(loader, dataset=data, sampler=sampler, collate_fn=data.collate)


def _counts(sampler: Any, count: int) -> tuple[int, int]:
    """Number of samples, and of variants of each, that a loader's own sampler goes through."""
    if isinstance(sampler, Shuffle) and sampler.count * sampler.draws == count:
        return sampler.count, sampler.draws
    if (
        isinstance(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == count
    ):
        return count, 1
    raise DataError(
        "InfoBatch replaces the sampler, which is only the same training where it gives each of "
        f"the {count} samples once an epoch in random order, got {type(sampler).__name__}; make "
        "the DataLoader with shuffle=True, over a Subset if not all samples are meant."
    )


def _parts(item: Any) -> tuple[Any, ...]:
    if not isinstance(item, list | tuple):
        raise DataError(
            "InfoBatch needs items that are tuples, such as (input, target), got "
            f"{type(item).__name__}; wrap the dataset so that it gives tuples."
        )
    return tuple(item)
