from itertools import pairwise

import pytest
import torch

from sartor.core import DataError
from sartor.data.moving import bump_sprite, digit_sprites, moving_frames


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_frames_are_shifts_of_one_another() -> None:
    made = moving_frames(bump_sprite(), 20, 6, 8, generator=draw())[:, :, 0]
    found = set()
    for sequence in made:
        shifts = [
            (y, x)
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
            if torch.equal(sequence[0].roll((y, x), (0, 1)), sequence[1])
        ]
        assert len(shifts) == 1 and shifts[0] != (0, 0)
        found.add(shifts[0])
        for before, after in pairwise(sequence):
            assert torch.equal(before.roll(shifts[0], (0, 1)), after)
    assert len(found) == 8


def test_errors_of_constant_forecasts_are_the_card_s() -> None:
    """Zero, the mean frame and the last frame: squared error of a frame."""
    made = moving_frames(bump_sprite(), 4000, 8, 8, generator=draw())
    last, later = made[:, 3:4], made[:, 4:]

    def error(prediction: torch.Tensor) -> float:
        return float((prediction - later).square().sum(dim=(2, 3, 4)).mean())

    assert error(torch.zeros(1)) == pytest.approx(2.8, abs=1e-4)
    assert error(made.mean(dim=(0, 1))) == pytest.approx(2.47, abs=0.01)
    assert error(last) == pytest.approx(4.65, abs=0.05)


def test_digits_move_too() -> None:
    sprites = digit_sprites()
    assert sprites.shape == (1797, 8, 8) and sprites.min() >= 0 and sprites.max() == 1
    made = moving_frames(sprites, 3, 4, 16, generator=draw(), velocities=((2, 0),))
    assert made.shape == (3, 4, 1, 16, 16)
    assert torch.equal(made[:, 1], made[:, 0].roll(2, dims=2))


def test_a_seed_gives_the_same_again() -> None:
    one, other = (moving_frames(bump_sprite(), 5, 3, 8, generator=draw(4)) for _ in range(2))
    assert torch.equal(one, other)


def test_bad_numbers_are_refused() -> None:
    for sprites, *numbers in (
        (bump_sprite(), 1, 1, 2),
        (bump_sprite(), 0, 1, 8),
        (bump_sprite(), 1, 0, 8),
        (bump_sprite()[0], 1, 1, 8),
        (bump_sprite()[:0], 1, 1, 8),
    ):
        with pytest.raises(DataError, match="Moving frames take"):
            moving_frames(sprites, *numbers, generator=draw())
    with pytest.raises(DataError, match="velocity"):
        moving_frames(bump_sprite(), 1, 1, 8, generator=draw(), velocities=())
