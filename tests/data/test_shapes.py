import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError
from sartor.data.shapes import SHAPES, draw_shapes, mean_iou, shapes_task


def drawn(count: int = 200, size: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw_shapes(count, size, generator=torch.Generator().manual_seed(seed))


def test_pictures_and_labels() -> None:
    pictures, labels = drawn()
    assert pictures.min() >= 0 and pictures.max() <= 1 and pictures.dtype is torch.float32
    shares = labels.flatten().bincount(minlength=5) / labels.numel()
    assert len(shares) == len(SHAPES) and labels.dtype is torch.int64
    # a shape of radius r covers about 3 r^2 pixels; three of four kinds, some hidden
    assert 0.4 < shares[0] < 0.85 and shares[1:].min() > 0.02
    assert sum(set(one.unique().tolist()) == {0} for one in labels) == 0


def test_they_follow_the_seed() -> None:
    first, again, other = drawn(8), drawn(8), drawn(8, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_colour_does_not_tell_the_kind() -> None:
    pictures, labels = drawn(600)
    means = torch.stack([pictures.movedim(1, -1)[labels == kind].mean(0) for kind in range(1, 5)])
    # over hundreds of shapes of each kind, every channel is grey on average
    assert (means - 0.5).abs().max() < 0.08


def test_kinds_have_their_forms() -> None:
    """What a shape covers of its box: pi / 4, 1, 1 / 2, and a ring's pi / 4 * (1 - 0.55^2)."""
    import sartor.data.shapes as module

    size = 128
    for kind, share in ((1, 0.785), (2, 1.0), (3, 0.5), (4, 0.548)):
        kinds = torch.full((60, 1, 1), kind)
        inside = module._inside(kinds, size, torch.Generator().manual_seed(0))
        covered = []
        for one in inside:
            rows, columns = one.any(1).nonzero()[:, 0], one.any(0).nonzero()[:, 0]
            whole = (
                rows[0] > 0 and columns[0] > 0 and rows[-1] < size - 1 and columns[-1] < size - 1
            )
            if whole:
                box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
                covered.append((one.sum() / box).item())
        assert len(covered) > 10
        assert abs(sum(covered) / len(covered) - share) < 0.04, SHAPES[kind]


def test_the_task() -> None:
    task = shapes_task(train=40, selection=8, validation=8, size=16, batch_size=16)
    (inputs, labels), *rest = list(task.train)
    assert inputs.shape == (16, 3, 16, 16) and labels.shape == (16, 16, 16) and len(rest) == 1
    assert task.num_classes is None and task.classes == SHAPES
    whole = torch.cat([x for x, _ in shapes_task(train=400, selection=8, validation=8).train])
    assert whole.mean(dim=(0, 2, 3)).abs().max() < 0.05
    model = nn.Conv2d(3, 5, kernel_size=1)
    assert task.loss(model(inputs), labels).ndim == 0
    assert 0 <= task.evaluate(model, task.selection) <= 1
    first, other = (next(iter(s))[0] for s in (task.selection, task.validation))
    assert not torch.equal(first, other)


class Fixed(nn.Module):
    """Predicts what it is given as the first channel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x[:, 0].long(), self.classes).movedim(-1, 1).float()


def test_mean_iou_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]], [[2, 2, 2, 0]]])  # (2, 1, 4)
    guessed = torch.tensor([[[0, 1, 1, 1]], [[2, 2, 0, 0]]])[:, None].float()  # (2, 1, 1, 4)
    # ground: 2 of {0, 0, 0} and {0, 0, 0} agree, 4 in either; one: 2 of 3; two: 2 of 3
    wanted = (2 / 4 + 2 / 3 + 2 / 3) / 3
    assert mean_iou(Fixed(3), [(guessed, labels)]) == pytest.approx(wanted)
    # class 3 neither occurs nor is predicted; two batches count as one
    halves = [(guessed[i : i + 1], labels[i : i + 1]) for i in range(2)]
    assert mean_iou(Fixed(4), halves) == pytest.approx(wanted)
    perfect = labels[:, None].float()
    assert mean_iou(lambda x: Fixed(3)(x), [(perfect, labels)]) == 1


def test_refusals() -> None:
    for count, size in ((0, 32), (1, 7)):
        with pytest.raises(DataError, match=f"got {count} and {size}"):
            drawn(count, size)
    with pytest.raises(DataError, match="empty; give at least one batch"):
        mean_iou(Fixed(3), [])
