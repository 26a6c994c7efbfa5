import pytest
import torch

from sartor.core import TrainingError
from sartor.losses.patch_tokens import grid_side, merge_neighbours, merge_patches, patch_tokens


def test_tokens_of_every_layout_are_the_same() -> None:
    maps = torch.arange(2 * 3 * 4.0).reshape(1, 2, 3, 4)  # (B, D, H, W)
    tokens = patch_tokens(maps)
    assert tokens.shape == (1, 12, 2)
    assert torch.equal(tokens[0, 5], maps[0, :, 1, 1])  # row by row
    assert torch.equal(patch_tokens(maps.permute(0, 2, 3, 1), channels_last=True), tokens)
    with_class = torch.cat([torch.zeros(1, 1, 2), tokens], dim=1)
    assert torch.equal(patch_tokens(with_class, prefix=1), tokens)


def test_the_cards_merge() -> None:
    tokens = torch.arange(2 * 16 * 3.0).reshape(2, 16, 3)
    merged = merge_patches(tokens, 4)
    assert merged.shape == (2, 4, 12)
    assert torch.equal(merged[0, 0], torch.cat([tokens[0, i] for i in (0, 1, 4, 5)]))
    assert torch.equal(merged[1, 3], torch.cat([tokens[1, i] for i in (10, 11, 14, 15)]))
    assert merge_patches(tokens, 16) is tokens and merge_patches(tokens, 400) is tokens
    assert torch.equal(merge_neighbours(tokens, 1), tokens)


@pytest.mark.parametrize(
    ("count", "most", "message"),
    [
        (25, 4, "5 x 5 patches does not merge into at most 4 by 2 x 2"),
        (36, 16, "6 x 6 patches does not merge into at most 16"),  # 1 x 1 would leave 36
        (12, 4, "12 tokens are not the patches of a square grid"),
        (16, 0, "max_tokens=0"),
    ],
)
def test_merges_that_are_refused(count: int, most: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        merge_patches(torch.zeros(1, count, 2), most)


@pytest.mark.parametrize(
    ("shape", "prefix"), [((2, 8), 0), ((2, 8, 4, 4), 1), ((2, 1, 8), 1), ((2, 5, 8), -1)]
)
def test_features_that_are_no_tokens(shape: tuple[int, ...], prefix: int) -> None:
    with pytest.raises(TrainingError, match=rf"got \({', '.join(map(str, shape))}\)"):
        patch_tokens(torch.zeros(shape), prefix=prefix)


def test_sides() -> None:
    assert [grid_side(n) for n in (1, 16, 196)] == [1, 4, 14]
    for count in (0, 197):
        with pytest.raises(TrainingError, match=f"{count} tokens"):
            grid_side(count)
