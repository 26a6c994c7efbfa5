from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sartor.core import DataError, Task
from sartor.data import digits_task, load_task


def _all(loader: Any) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(*loader, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def _rows(images: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in images.flatten(1).tolist()}


@pytest.fixture(scope="module")
def task() -> Task:
    return digits_task()


def test_facts(task: Task) -> None:
    assert task.num_classes == 10 and task.input_shape == (1, 8, 8)
    assert [len(_all(part)[1]) for part in (task.train, task.selection, task.validation)] == [
        15 * 64,
        3 * 200,
        3 * 597,
    ]


def test_noise_is_in_units_of_the_standardised_pixels(task: Task) -> None:
    clean, noisy = digits_task(noise=0), task
    left, right = (_all(part.validation)[0] for part in (clean, noisy))
    assert float((right - left).std()) == pytest.approx(0.6, rel=0.02)
    pool = clean.train.dataset.images  # type: ignore[attr-defined]
    assert float(pool.mean()) == pytest.approx(0, abs=1e-5)
    assert float(pool.std(correction=0)) == pytest.approx(1, rel=1e-5)


def test_parts_share_no_image() -> None:
    task = digits_task(noise=0)
    train, selection, validation = (
        _rows(part.dataset.images)  # type: ignore[attr-defined]
        for part in (task.train, task.selection, task.validation)
    )
    assert (len(train), len(selection), len(validation)) == (1000, 200, 597)
    assert not train & selection and not (train | selection) & validation


def test_epochs_show_other_noise_and_are_repeatable(task: Task) -> None:
    def epoch(task: Task, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return _all(task.train)[0]

    assert torch.equal(epoch(task, 1), epoch(digits_task(workers=2), 1))
    assert len(_rows(epoch(task, 1)) - _rows(epoch(task, 2))) > 700


def test_seed_decides_and_global_state_stays(task: Task) -> None:
    state = torch.get_rng_state()
    same, other = digits_task(seed=0), digits_task(seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(_all(same.selection)[0], _all(task.selection)[0])
    assert not torch.equal(_all(other.selection)[0], _all(task.selection)[0])


def test_other_sizes_are_made_of_the_same_images(task: Task) -> None:
    sized = digits_task(image_size=(3, 16, 16))
    assert sized.input_shape == (3, 16, 16)
    inputs, labels = next(iter(sized.validation))
    assert inputs.shape == (64, 3, 16, 16)
    assert torch.equal(labels, next(iter(task.validation))[1])


def test_negative_noise_is_refused() -> None:
    with pytest.raises(DataError, match="at least 0, got -1"):
        digits_task(noise=-1)


def test_a_ready_task_is_returned_as_it_is(task: Task) -> None:
    assert load_task(task) is task


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "digitz"}, "'digits', a folder with train and val, an .npz file, hub:owner/name"),
        ({"data": "digits", "batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"data": "digits", "workers": -1}, "workers must be at least 0, got -1"),
        ({"data": "digits", "image_size": (8, 8)}, r"must be \(channels, height, width\)"),
        ({"data": "digits", "image_size": (4, 8, 0)}, r"must be \(channels, height, width\)"),
        ({"data": "missing.npz"}, r"missing\.npz does not exist"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_task(**arguments)
