import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import DataError, FamilyError
from sartor.export import FORMATS
from sartor.nn.meta_pooling.candidates import SeparablePool, WindowPool, make_candidate, window
from sartor.testing import LayerContract


class TestSeparablePool(LayerContract):
    def layer(self) -> nn.Module:
        return SeparablePool(8)

    def inputs(self) -> Tensor:
        return torch.randn(2, 8, 5, 7, generator=torch.Generator().manual_seed(0))

    @pytest.mark.slow  # it is among the candidates of MetaPooling's suite
    @pytest.mark.parametrize("format", FORMATS)
    def test_exports_with_equal_numbers(self, format: str) -> None:
        super().test_exports_with_equal_numbers(format)


@pytest.mark.parametrize(("size", "corner"), [(3, 4 / 9), (5, 9 / 25), (7, 16 / 49)])
def test_means_count_zeros_at_the_border(size: int, corner: float) -> None:
    constant = torch.full((1, 1, 9, 9), 2.0)
    pooled = WindowPool("avg", size)(constant)
    assert pooled[0, 0, 0, 0].item() == pytest.approx(2 * corner)
    assert pooled[0, 0, 4, 4].item() == pytest.approx(2)
    assert torch.equal(WindowPool("max", size)(constant), constant)


def test_separable_gates_by_its_rows_and_columns() -> None:
    """With closed gates half of a half is left; the gates do not know where in a row a pixel is."""
    layer = SeparablePool(4).eval()
    for gate in (layer.rows, layer.columns):
        nn.init.zeros_(gate.weight)
        nn.init.zeros_(gate.bias)
    x = torch.randn(1, 4, 3, 5)
    assert torch.allclose(layer(x), x / 4)


def test_windows_are_bound_by_the_map() -> None:
    assert WindowPool("max", 7)(torch.zeros(1, 1, 4, 4)).shape == (1, 1, 4, 4)
    with pytest.raises(DataError, match="at least 4 pixels a side, got 3"):
        WindowPool("max", 7)(torch.zeros(1, 1, 3, 9))


@pytest.mark.parametrize("name", ["max4", "median3", "", "max", "avg-3"])
def test_unknown_candidates_are_refused(name: str) -> None:
    with pytest.raises(FamilyError, match="There is no pooling"):
        make_candidate(name, 8)


def test_windows_of_names() -> None:
    assert [window(n) for n in ("skip", "max3", "avg7", "sep")] == [1, 3, 7, 1]


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_windows_are_torch_s(kind: str, size: int) -> None:
    """Values and gradients, for maps that torch pools in another order."""
    x = torch.randn(2, 6, 5, 8, generator=torch.Generator().manual_seed(0)).relu()
    pool = {"max": F.max_pool2d, "avg": F.avg_pool2d}[kind]
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = WindowPool(kind, size)(found), pool(expected, size, 1, size // 2)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs)
    for y in (ours, theirs):
        (y * torch.arange(8.0)).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)
