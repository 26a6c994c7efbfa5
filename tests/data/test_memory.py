from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sartor.core import DataError
from sartor.data.memory import (
    ImageTensors,
    Shuffle,
    fit_images,
    statistics,
    train_loader,
    whole_loader,
)


def _images(count: int, size: tuple[int, ...] | None = None) -> ImageTensors:
    pixels = torch.arange(count * 4, dtype=torch.float32).reshape(count, 1, 2, 2)
    one = torch.ones(1)
    return ImageTensors(pixels, torch.arange(count), mean=0 * one, std=one, size=size)


def _epoch(loader: torch.utils.data.DataLoader[tuple[Tensor, Tensor]], seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.cat([labels for _, labels in loader])


def test_statistics_are_those_of_all_pixels_in_any_chunk() -> None:
    images = torch.randint(0, 256, (30, 3, 4, 5), dtype=torch.uint8)
    mean, std = statistics(images, chunk=7)
    values = images.float() / 255
    torch.testing.assert_close(mean, values.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(std, values.std(dim=(0, 2, 3), correction=0))


def test_constant_channel_is_not_divided_by_zero() -> None:
    assert statistics(torch.full((3, 1, 2, 2), 5.0))[1].tolist() == [1.0]


def test_bytes_become_normalised_batches() -> None:
    images = torch.full((2, 1, 2, 2), 255, dtype=torch.uint8)
    data = ImageTensors(
        images, torch.tensor([0, 1]), mean=torch.tensor([0.5]), std=torch.tensor([0.25])
    )
    inputs, labels = data.__getitems__([1, 0])
    assert inputs.unique().tolist() == [2.0] and labels.tolist() == [1, 0]
    assert data[0][0].shape == (1, 2, 2)


def test_images_are_fitted() -> None:
    images = torch.rand(2, 1, 8, 8)
    assert fit_images(images, None) is images
    coloured = fit_images(images, (3, 8, 8))
    assert torch.equal(coloured[:, 2], images[:, 0])
    assert fit_images(images, (3, 16, 4)).shape == (2, 3, 16, 4)
    torch.testing.assert_close(fit_images(coloured, (1, 8, 8)), images)
    with pytest.raises(DataError, match="3 channels and the models take 4"):
        fit_images(coloured, (4, 8, 8))


def test_every_input_comes_once_with_one_variant() -> None:
    torch.manual_seed(0)
    items = torch.tensor(list(Shuffle(50, draws=4)))
    assert sorted((items % 50).tolist()) == list(range(50))
    assert set((items // 50).tolist()) == {0, 1, 2, 3}
    assert not hasattr(Shuffle(5), "generator")


def test_order_follows_the_global_seed_with_any_number_of_workers() -> None:
    alone, two = (
        train_loader(_images(20), count=20, batch_size=8, workers=workers) for workers in (0, 2)
    )
    assert torch.equal(_epoch(alone, 1), _epoch(two, 1))
    assert not torch.equal(_epoch(alone, 1), _epoch(alone, 2))


def test_incomplete_last_batch_is_left_out_unless_it_is_the_only_one() -> None:
    assert len(train_loader(_images(20), count=20, batch_size=8, workers=0)) == 2
    assert len(train_loader(_images(5), count=5, batch_size=8, workers=0)) == 1
    whole = whole_loader(_images(20), batch_size=8, workers=0)
    assert torch.cat([labels for _, labels in whole]).tolist() == list(range(20))


def test_two_processes_share_the_batches_of_one() -> None:
    data_loader = pytest.importorskip("accelerate.data_loader")
    loader = train_loader(_images(20), count=20, batch_size=8, workers=0, draws=1)

    def share(rank: int) -> list[Tensor]:
        shard = data_loader.prepare_data_loader(
            loader, num_processes=2, process_index=rank, split_batches=True
        )
        torch.manual_seed(5)
        return [labels for _, labels in shard]

    first, second = share(0), share(1)
    joined = torch.cat([torch.cat(pair) for pair in zip(first, second, strict=True)])
    assert torch.equal(joined, _epoch(loader, 5))
