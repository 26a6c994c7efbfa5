import pytest
import torch
from torch import Tensor, nn

from sartor.core import FamilyError, NoEffectError, TrainingError
from sartor.nn.autorf.cell import RFCell
from sartor.nn.autorf.ops import SPACES
from sartor.nn.autorf.resnet import cifar_resnet
from sartor.nn.autorf.search import DifferentiableSearch, SearchCell, derive, insert_search_cells
from sartor.nn.sources import seeded
from sartor.testing import LayerContract


class TestSearchCell(LayerContract):
    def layer(self) -> nn.Module:
        return SearchCell(16, "middle", steps=2)

    def inputs(self) -> Tensor:
        return torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(0))


def test_all_cells_share_54_logits() -> None:
    made = insert_search_cells(cifar_resnet(8, num_classes=3))
    cells = [m for m in made.modules() if isinstance(m, SearchCell)]
    assert len(cells) == 3 and all(cell.alpha is cells[0].alpha for cell in cells)
    assert cells[0].alpha.numel() == 54
    search = DifferentiableSearch(made)
    assert len(search.weights()) == len([*made.parameters()]) - 1


def test_a_step_moves_the_logits_alone() -> None:
    with seeded(0):
        made = insert_search_cells(cifar_resnet(8, num_classes=3), "small")
        images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2] * 2)
    search = DifferentiableSearch(made, arch_lr=0.1)
    weights, alpha = [p.detach().clone() for p in search.weights()], search.alpha.detach().clone()
    search.arch_step(images, labels)
    assert all(torch.equal(a, b) for a, b in zip(weights, search.weights(), strict=True))
    assert all(p.grad is None for p in made.parameters())
    assert not torch.equal(alpha, search.alpha)
    assert RFCell(16, search.genotype())(torch.zeros(2, 16, 4, 4)).shape == (2, 16, 4, 4)


def test_all_edges_stay_strongest_first_and_none_is_never_derived() -> None:
    names = SPACES["fullpool"]
    alpha = torch.zeros(6, 9)
    alpha[:, names.index("none")] = 9.0
    alpha[0, names.index("max3")] = 1
    alpha[1, names.index("avg5")] = 1
    alpha[2, names.index("strip")] = 2
    alpha[3, names.index("noise")] = 1
    alpha[4, names.index("max7")] = 3
    alpha[5, names.index("max5")] = 2
    assert derive(alpha).nodes == (
        (("max3", 0),),
        (("strip", 1), ("avg5", 0)),
        (("max7", 1), ("max5", 2), ("noise", 0)),
    )


@pytest.mark.parametrize("space", ["fullconv", "hybrid", "autola"])
def test_sets_of_convolutions_and_attentions_are_searched_and_derived(space: str) -> None:
    with seeded(0):
        cell, x = SearchCell(16, space).train(), torch.randn(2, 16, 9, 9)
        alpha = torch.randn(6, len(SPACES[space]))
    cell(x).square().mean().backward()
    assert cell.alpha.grad is not None and bool((cell.alpha.grad[:, 1:] != 0).all())
    made = RFCell(16, derive(alpha, space)).eval()
    assert made(x).shape == x.shape


def test_there_are_8_to_the_6_cells() -> None:
    assert (len(SPACES["fullpool"]) - 1) ** 6 == 262_144


def test_a_mixture_of_one_operation_is_that_operation() -> None:
    """With all the weight on skips, nodes give 1, 2 and 4 times the input."""
    cell = SearchCell(16, "small").eval()
    with torch.no_grad():
        cell.alpha.fill_(-1e4)
        cell.alpha[:, SPACES["small"].index("noise")] = 0
        x = torch.randn(1, 16, 4, 4)
        t = cell.squeeze(x)
        expected = cell.gate(cell.expand(torch.cat((t, 2 * t, 4 * t), dim=1)) + x)
        assert torch.allclose(cell(x), expected, atol=1e-6)


def test_bad_calls_are_refused() -> None:
    with pytest.raises(FamilyError, match="no space 'huge'"):
        SearchCell(16, "huge")
    with pytest.raises(FamilyError, match="multiple of 16"):
        SearchCell(8)
    with pytest.raises(FamilyError, match="1, 3, 6"):
        derive(torch.zeros(4, 9))
    with pytest.raises(FamilyError, match="no space"):
        derive(torch.zeros(6, 9), "huge")
    with pytest.raises(NoEffectError, match="no searched cell"):
        DifferentiableSearch(nn.Linear(2, 2))
    with pytest.raises(NoEffectError, match="No residual block"):
        insert_search_cells(nn.Linear(2, 2))
    with pytest.raises(FamilyError, match="attention already"):
        insert_search_cells(insert_search_cells(cifar_resnet(8)))
    with pytest.raises(TrainingError, match="2 cells"):
        DifferentiableSearch(nn.Sequential(SearchCell(16), SearchCell(16)))
    with pytest.raises(TrainingError, match="arch_lr"):
        DifferentiableSearch(SearchCell(16), arch_lr=0)
