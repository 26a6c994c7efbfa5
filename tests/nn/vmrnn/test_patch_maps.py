import pytest
import torch

from sartor.core import FamilyError
from sartor.nn.vmrnn.patch_maps import PatchEmbed, PatchExpanding, PatchInflated, PatchMerging


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_what_is_embedded_is_inflated_to_its_size(patch: int) -> None:
    frame = torch.zeros(2, 3, 2 * patch, 3 * patch)
    maps = PatchEmbed(3, 16, patch)(frame)
    assert maps.shape == (2, 2, 3, 16)
    assert PatchInflated(16, 3, patch)(maps).shape == frame.shape


def test_halves_and_doubles() -> None:
    maps = torch.zeros(2, 4, 6, 8)
    merged = PatchMerging(8)(maps)
    assert merged.shape == (2, 2, 3, 16)
    assert PatchExpanding(16)(merged).shape == maps.shape


def test_merging_reads_a_column_of_neighbours_first() -> None:
    layer = PatchMerging(1)
    layer.norm, layer.reduction = torch.nn.Identity(), torch.nn.Identity()
    assert layer(torch.arange(4.0).view(1, 2, 2, 1)).flatten().tolist() == [0, 2, 1, 3]


def test_expanding_lays_a_pixel_out_by_rows() -> None:
    layer = PatchExpanding(2)
    layer.norm, layer.expand = torch.nn.Identity(), torch.nn.Identity()
    found = layer(torch.arange(8.0).view(1, 1, 2, 4))[0, ..., 0]
    assert found.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize(("dim", "patch"), [(16, 1), (16, 3), (16, 6), (24, 4)])
def test_bad_numbers_are_refused(dim: int, patch: int) -> None:
    with pytest.raises(FamilyError, match="Patches"):
        PatchInflated(dim, 1, patch)
