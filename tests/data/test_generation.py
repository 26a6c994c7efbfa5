import pytest
import torch
from torch import nn

from sartor.core import DataError
from sartor.data.generation import digit_vectors, energy_distance, generation_task


def test_the_digits_are_all_there_and_apart() -> None:
    digits = digit_vectors(seed=3)
    parts = (digits.train, digits.selection, digits.validation)
    assert [len(part) for part in parts] == [1000, 200, 597]
    assert all(float(part.min()) == -1 and float(part.max()) == 1 for part in parts)
    assert torch.equal(digits.train, digit_vectors(seed=3).train)
    assert not torch.equal(digits.train, digit_vectors(seed=4).train)


def test_energy_distance_by_another_way() -> None:
    """On a line it is twice the integral of the squared difference of the distribution
    functions."""
    x, y = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([2.0, 5.0])
    edges = torch.cat([x, y]).sort().values
    gaps = edges.diff()
    below = [torch.tensor([float((v <= e).float().mean()) for e in edges[:-1]]) for v in (x, y)]
    wanted = 2 * float((gaps * (below[0] - below[1]).square()).sum())
    assert energy_distance(x[:, None], y[:, None]) == pytest.approx(wanted, rel=1e-6)
    assert energy_distance(x[:, None], x[:, None]) == 0


def test_quality_is_of_all_samples_together() -> None:
    task = generation_task(samples=40, batch_size=16)
    assert [len(x) for x, _ in task.validation] == [16, 16, 8]
    real = torch.cat([y for _, y in task.validation])
    made = torch.cat([x for x, _ in task.validation])
    quality = task.evaluate(nn.Identity(), task.validation)
    assert quality == pytest.approx(1 / (1 + energy_distance(made, real))) and quality < 0.5
    held = torch.cat([x for x, _ in task.selection])
    assert not torch.isin(held[:, 0], made[:, 0]).any(), "choices and report share no noise"


def test_more_samples_than_digits() -> None:
    task = generation_task(samples=700, batch_size=700)
    ((noise, real),) = task.validation
    assert noise.shape == real.shape == (700, 64)


def test_refusals() -> None:
    with pytest.raises(DataError, match="got 0 and 200"):
        generation_task(samples=0)
    with pytest.raises(DataError, match=r"\(N, D\) and \(M, D\)"):
        energy_distance(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(DataError, match="at least one vector"):
        energy_distance(torch.zeros(0, 3), torch.zeros(2, 3))
