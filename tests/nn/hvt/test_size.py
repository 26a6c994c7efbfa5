import pytest

from sartor.core import FamilyError
from sartor.nn.hvt.size import AXES, HVTSize, scale_to


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("target", [1e9, 4.57e9])
def test_no_neighbour_is_nearer(axis: str, target: float) -> None:
    found = scale_to(HVTSize(pool_every=3), target, axis=axis)
    changed = {
        "width": [{"num_heads": n, "embed_dim": 64 * n} for n in range(1, 30)],
        "depth": [{"depth": n} for n in range(1, 200)],
        "patch": [{"patch_size": p} for p in (4, 7, 8, 14, 16, 28, 32)],
        "resolution": [{"img_size": 16 * n} for n in range(5, 60)],
    }[axis]
    others = [
        HVTSize(**{**HVTSize(pool_every=3).to_dict(), **one}) for one in changed if legal(one)
    ]
    distance = abs(found.macs() - target)
    assert distance <= min(abs(other.macs() - target) for other in others)
    assert HVTSize(**found.to_dict()) == found


def legal(changed: dict[str, int]) -> bool:
    try:
        HVTSize(**{**HVTSize(pool_every=3).to_dict(), **changed})
    except FamilyError:
        return False
    return True


def test_scaling_changes_one_axis() -> None:
    found = scale_to(HVTSize(pool_every=6), 3e9, axis="width")
    assert found.embed_dim // found.num_heads == 64
    assert (found.depth, found.patch_size, found.img_size, found.pool_every) == (12, 16, 224, 6)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"pool_every": 0}, "at least 1, got 0"),
        ({"depth": 0}, "at least 1, got 0"),
        ({"embed_dim": 100}, "embed_dim of an HVT must be a multiple of its num_heads"),
        ({"img_size": 100}, "img_size of an HVT must be a multiple of its patch_size"),
        ({"pool_every": 1, "depth": 12}, "pool after block 6 gets 2 tokens"),
    ],
)
def test_sizes_that_cannot_be(kwargs: dict[str, int], words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        HVTSize(**kwargs)


def test_budgets_that_cannot_be() -> None:
    with pytest.raises(FamilyError, match="did you mean 'width'"):
        scale_to(HVTSize(), 1e9, axis="widht")
    with pytest.raises(FamilyError, match="above 0"):
        scale_to(HVTSize(), 0)
