"""Images held in memory, and the loaders of all built-in data.

Every loader is a plain torch ``DataLoader``. All randomness of training data is in the order of
indices, which the main process draws from torch's global random state at the start of an epoch: the
same epoch seed gives the same batches with any number of workers, in any number of processes that
share each batch, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sartor.core.errors import DataError

__all__ = [
    "ImageTensors",
    "Shuffle",
    "fit_images",
    "same_loader",
    "statistics",
    "train_loader",
    "whole_loader",
]

Batch = tuple[Tensor, Tensor]


class ImageTensors(Dataset[Batch]):
    """Images and labels in memory, given out as normalised batches of the wanted size.

    Args:
        images: (N, C, H, W), uint8 (read as 0..1) or float.
        labels: (N,), int64.
        mean: per channel, (C,).
        std: per channel, (C,), positive.
        size: (C, H, W) of the inputs given out; ``None`` for the images' own.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Tensor,
        std: Tensor,
        size: tuple[int, ...] | None = None,
    ) -> None:
        self.images, self.labels = images, labels
        self.mean, self.std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)  # (C, 1, 1)
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        inputs, labels = self.__getitems__([index])
        return inputs[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """One batch: inputs (B, C, H, W) and labels (B,)."""
        chosen = torch.as_tensor(indices)
        inputs = (_unit(self.images[chosen]) - self.mean) / self.std  # (B, C, H, W)
        return fit_images(inputs, self.size), self.labels[chosen]


class Shuffle(Sampler[int]):
    """Each input once an epoch in a random order, each with one of its ``draws`` variants.

    Gives ``i + count * d`` for input ``i`` and variant ``d``. Both are drawn from torch's global
    random state when an epoch starts. It has no generator of its own on purpose: launchers that
    find one replace it, and the order would no longer follow the seed of the epoch.
    """

    def __init__(self, count: int, *, draws: int = 1) -> None:
        self.count, self.draws = count, draws

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.count)  # (N,)
        variant = torch.randint(self.draws, (self.count,))  # (N,)
        yield from (order + self.count * variant).tolist()


def train_loader(
    data: Dataset[Batch],
    *,
    count: int,
    batch_size: int,
    workers: int,
    draws: int = 1,
) -> DataLoader[Batch]:
    """Make the shuffled loader of ``count`` inputs; a last incomplete batch is left out, unless it
    is the only one.

    Args:
        data: holds input ``i`` in variant ``d`` at ``i + count * d``.
        count: number of inputs, N.
        batch_size: inputs a batch.
        workers: processes that load; 0 loads in this one.
        draws: variants of each input.
    """
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=Shuffle(count, draws=draws),
        drop_last=count >= batch_size,
        num_workers=workers,
        collate_fn=_collate(data),
    )


def whole_loader(data: Dataset[Batch], *, batch_size: int, workers: int) -> DataLoader[Batch]:
    """Make a loader of all inputs in their order."""
    return DataLoader(
        data,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate(data),
    )


def same_loader(loader: DataLoader[Any], **changed: Any) -> DataLoader[Any]:
    """A loader like another one, but for what is named.

    Args:
        loader: has a batch size and a sampler.
        changed: keywords of ``DataLoader``, such as ``dataset``, ``sampler`` or ``batch_size``.
    """
    kept = (
        *("dataset", "batch_size", "sampler", "drop_last", "collate_fn", "num_workers"),
        *("pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "generator"),
        *("prefetch_factor", "persistent_workers"),
    )
    return DataLoader(**{**{name: getattr(loader, name) for name in kept}, **changed})


def fit_images(images: Tensor, size: tuple[int, ...] | None) -> Tensor:
    """Bring images to the size that a model takes.

    One channel is repeated, several are averaged into one, height and width are resized bilinearly.

    Args:
        images: (B, C, H, W), float.
        size: wanted (C, H, W); ``None`` changes nothing.

    Raises:
        DataError: the channels can neither be repeated nor averaged.
    """
    if size is None:
        return images
    channels, wanted = images.shape[1], size[0]
    if channels == 1 and wanted > 1:
        images = images.expand(-1, wanted, -1, -1)  # (B, wanted, H, W)
    elif wanted == 1 and channels > 1:
        images = images.mean(dim=1, keepdim=True)  # (B, 1, H, W)
    elif channels != wanted:
        raise DataError(
            f"The images have {channels} channels and the models take {wanted}; give models with "
            f"{channels} input channels, or images with 1 or {wanted}."
        )
    if tuple(images.shape[2:]) == tuple(size[1:]):
        return images.contiguous()
    return F.interpolate(images, size=tuple(size[1:]), mode="bilinear", antialias=True)


def statistics(images: Tensor, *, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of (N, C, H, W), each (C,); a constant channel
    gets deviation 1.
    """
    total = square = torch.zeros(images.shape[1], dtype=torch.float64)
    for start in range(0, len(images), chunk):
        values = _unit(images[start : start + chunk]).double()
        total = total + values.sum(dim=(0, 2, 3))
        square = square + values.square().sum(dim=(0, 2, 3))
    count = images.numel() / images.shape[1]
    mean = total / count
    std = (square / count - mean.square()).clamp_min(0).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, torch.ones_like(std)).float()


def _unit(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _collate(data: Dataset[Batch]) -> Callable[[Any], Any] | None:
    return _as_is if isinstance(data, ImageTensors) else None


def _as_is(batch: Any) -> Any:  # data in memory come as whole batches
    return batch
