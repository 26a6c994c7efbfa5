"""The handwritten digits that scikit-learn ships, with noise that makes model size matter.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sartor.core.errors import DataError
from sartor.core.packages import require
from sartor.core.task import Task
from sartor.data.memory import ImageTensors, fit_images, statistics, train_loader, whole_loader
from sartor.data.split import hold_out

__all__ = ["digits_task"]

VALIDATION = 597
SELECTION = 200
TRAIN_DRAWS = 8
HELD_OUT_DRAWS = 3


def digits_task(
    *,
    batch_size: int = 64,
    image_size: tuple[int, ...] | None = None,
    seed: int = 0,
    workers: int = 0,
    noise: float = 0.6,
) -> Task:
    """Make the digits task: 1797 images (1, 8, 8) of 10 classes, no network.

    1000 images train, 200 select, 597 validate. Pixels are standardised with mean and deviation of
    the training images; then Gaussian noise is added. Held-out images appear with 3 fixed noise
    draws each. Training images have a fixed pool of 8 draws each; every epoch shows each image once
    with one of them, chosen with the order of the epoch. Split and noise follow ``seed`` alone.

    Args:
        batch_size: inputs a batch.
        image_size: (C, H, W) that the models take; ``None`` for (1, 8, 8). The noise is added
            before resizing.
        seed: of split and noise.
        workers: loading processes.
        noise: standard deviation in units of the standardised pixels, at least 0.

    Raises:
        DataError: ``noise`` is negative.

    Example:
        >>> digits_task().input_shape
        (1, 8, 8)
    """
    if not noise >= 0:
        raise DataError(f"The noise must be at least 0, got {noise}; 0.6 is the default.")
    bunch = require("sklearn.datasets").load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1)  # (N, 1, 8, 8)
    labels = torch.tensor(bunch.target, dtype=torch.int64)  # (N,)
    rest, validation = hold_out(labels, VALIDATION, seed=seed)
    kept, held = hold_out(labels[rest], SELECTION, seed=seed)
    train, selection = rest[kept], rest[held]
    mean, std = statistics(images[train])
    images = (images - mean) / std
    generator = torch.Generator().manual_seed(seed)

    def noisy(chosen: Tensor, draws: int) -> ImageTensors:
        clean = images[chosen].repeat(draws, 1, 1, 1)  # (draws * n, 1, 8, 8)
        pixels = clean + noise * torch.randn(clean.shape, generator=generator)
        return ImageTensors(
            pixels,
            labels[chosen].repeat(draws),
            mean=torch.zeros(1),
            std=torch.ones(1),
            size=image_size,
        )

    pool = noisy(train, TRAIN_DRAWS)
    loading = {"batch_size": batch_size, "workers": workers}
    return Task(
        name="digits",
        train=train_loader(pool, count=len(train), draws=TRAIN_DRAWS, **loading),
        selection=whole_loader(noisy(selection, HELD_OUT_DRAWS), **loading),
        validation=whole_loader(noisy(validation, HELD_OUT_DRAWS), **loading),
        example=fit_images(torch.zeros(1, 1, 8, 8), image_size),
        num_classes=10,
        classes=tuple(str(digit) for digit in range(10)),
        preprocess={"mean": (mean / 16).tolist(), "std": (std / 16).tolist()},
    )
