import pytest
import torch

from sartor.reproduce.two_dots import SIDE, two_dots


@pytest.mark.parametrize("limit", [2, 6, 13])
def test_labels_follow_from_the_distance(limit: int) -> None:
    images, labels = two_dots(400, limit, generator=torch.Generator().manual_seed(0))
    assert images.shape == (400, 2, SIDE, SIDE)
    assert torch.equal(images.flatten(2).sum(2), torch.ones(400, 2))
    places = images.flatten(2).argmax(2)  # (N, 2)
    rows, columns = places // SIDE, places % SIDE
    apart = torch.maximum((rows[:, 0] - rows[:, 1]).abs(), (columns[:, 0] - columns[:, 1]).abs())
    assert torch.equal(labels.bool(), apart <= limit)
    assert {*apart.tolist()} == {limit - 1, limit, limit + 1, limit + 2}
    assert 0.4 < labels.float().mean() < 0.6


def test_a_seed_draws_the_same_again() -> None:
    one, other = (two_dots(9, 4, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
