import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError, FamilyError
from sartor.nn.lit.relative_attention import MapAttention, relative_index, resize_bias_table
from sartor.testing import LayerContract


class TestMapAttention(LayerContract):
    def layer(self) -> nn.Module:
        return MapAttention(16, 4, size=(3, 4))

    def inputs(self) -> Tensor:
        return torch.randn(2, 3, 4, 16, generator=torch.Generator().manual_seed(0))


def test_the_index_of_the_card() -> None:
    index = relative_index(4, 4)
    assert index[0, :5].tolist() == [24, 23, 22, 21, 17]
    assert index.unique().tolist() == list(range(49))
    assert len(MapAttention(8, 2, size=(4, 4)).relative_bias) == 49


def test_equal_distances_share_a_bias() -> None:
    index = relative_index(3, 5)
    assert index[0, 6] == index[7, 13] == index[8, 14]  # one down, one right
    assert index[0, 6] != index[0, 5] and index[0, 6] != index[6, 0]


def test_timm_agrees() -> None:
    """Attention with the bias of one Swin window is timm's."""
    from timm.models.swin_transformer import WindowAttention

    theirs, ours = WindowAttention(16, 4, window_size=(4, 4)), MapAttention(16, 4, size=(4, 4))
    state = {k: v for k, v in theirs.state_dict().items() if "table" not in k}
    ours.load_state_dict({**state, "relative_bias": theirs.relative_position_bias_table})
    x = torch.randn(2, 4, 4, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(x).flatten(1, 2), theirs(x.flatten(1, 2)), atol=1e-6)


def test_without_bias_it_takes_tokens_and_any_map() -> None:
    layer = MapAttention(8, 2)
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(layer(x).flatten(1, 2), layer(x.flatten(1, 2)))


def test_a_stretched_table_keeps_its_corners_and_its_middle() -> None:
    table = torch.arange(49.0).view(49, 1).repeat(1, 2)
    assert torch.equal(resize_bias_table(table, (4, 4), (4, 4)), table)
    larger = resize_bias_table(table, (4, 4), (8, 8))
    assert larger.shape == (225, 2)
    assert larger[112, 0].item() == pytest.approx(24.0, abs=1e-4)  # distance zero


def test_bad_inputs() -> None:
    with pytest.raises(FamilyError, match="multiple of its num_heads, got 10 and 4"):
        MapAttention(10, 4)
    with pytest.raises(DataError, match=r"maps of \(4, 4\) and was given \(4, 5\)"):
        MapAttention(8, 2, size=(4, 4))(torch.zeros(1, 4, 5, 8))
