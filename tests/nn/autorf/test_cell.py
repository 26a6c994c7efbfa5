from collections.abc import Callable
from typing import ClassVar

import pytest
import timm
import torch
from torch import Tensor, nn

import sartor.nn.backbones  # noqa: F401 (registers)
from sartor.core import FamilyError, NoEffectError, RecipeError
from sartor.measure import count_flops, count_params
from sartor.nn.autorf.cell import RFCell, insert_rf_cells
from sartor.nn.autorf.gates import ChannelGate
from sartor.nn.autorf.genotype import GENOTYPES, Genotype
from sartor.nn.autorf.resnet import cifar_resnet, rf_resnet
from sartor.nn.sources import seeded
from sartor.testing import BackboneContract, LayerContract

SKIPS = Genotype(tuple(tuple(("noise", s) for s in range(n)) for n in (1, 2, 3)))


class TestCell(LayerContract):
    def layer(self) -> nn.Module:
        return RFCell(16, "Q1")

    def inputs(self) -> Tensor:
        return torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
class TestCellOfStrips(TestCell):
    def layer(self) -> nn.Module:
        return RFCell(16, "M1")


class TestSmallResNet(BackboneContract):
    name = "rf_resnet20"
    kwargs: ClassVar = {"depth": 8}


@pytest.mark.parametrize(
    ("depth", "width", "classes", "plain", "genotype", "with_cells"),
    [
        (20, 16, 10, 272_474, "P1", 309_434),
        (32, 16, 10, 466_906, "P1", 528_506),
        (56, 16, 10, 855_770, "P1", 966_650),
        (20, 64, 100, 4_350_884, "Q1", 4_775_588),
        (32, 64, 100, 7_451_044, "Q1", 8_158_884),
        (56, 64, 100, 13_651_364, "Q1", 14_925_476),
    ],
)
def test_parameters_are_the_card_s(
    depth: int, width: int, classes: int, plain: int, genotype: str, with_cells: int
) -> None:
    kwargs = {"width": width, "num_classes": classes}
    with torch.device("meta"):
        assert count_params(cifar_resnet(depth, **kwargs)) == plain
        assert count_params(rf_resnet(depth, genotype=genotype, **kwargs)) == with_cells


@pytest.mark.parametrize(
    ("depth", "plain", "with_cells"),
    [
        (20, 40_813_184, 46_277_120),
        (32, 69_124_736, 78_231_296),
        (56, 125_747_840, 142_139_648),
    ],
)
def test_operations_are_the_card_s(depth: int, plain: int, with_cells: int) -> None:
    image = torch.zeros(1, 3, 32, 32, device="meta")
    with torch.device("meta"):
        nets = [rf_resnet(depth, genotype=g, num_classes=10) for g in (None, "P1")]
        assert [count_flops(net, image) / 2 for net in nets] == [plain, with_cells]


def test_nodes_sum_their_edges() -> None:
    """Without pooling they give once, twice and four times the input."""
    cell = RFCell(16, SKIPS).eval()
    x = torch.randn(1, 16, 4, 4)
    t = cell.squeeze(x)
    one, two, three = cell.states(x)
    assert torch.equal(one, t) and torch.equal(two, 2 * t)
    assert torch.allclose(three, 4 * t)


def test_the_released_reading() -> None:
    """Every edge is a state: of P1 the last three are max3(t), the second state and the first."""
    with seeded(0):
        cell = RFCell(16, "P1", semantics="released").eval()
        x = torch.randn(1, 16, 6, 6)
    t = cell.squeeze(x)
    first, second, _, fourth = list(cell.operations)[:4]
    last = cell.states(x)
    assert len(last) == 3
    assert torch.equal(last[0], fourth(t))
    assert torch.equal(last[1], second(t)), "noise of state 2 is that state"
    assert torch.equal(last[2], first(t))


def test_a_gate_of_reduction_4_has_128_weights() -> None:
    assert count_params(ChannelGate(16)) == 128


def test_a_closed_cell_is_the_dense_net() -> None:
    """With a zero convolution on the way back and no gate, the block is what it was."""
    with seeded(0):
        model = cifar_resnet(8, num_classes=3).eval()
        images = torch.randn(2, 3, 16, 16)
        made = insert_rf_cells(model, "M3", se=False)
    for module in made.modules():
        if isinstance(module, RFCell):
            nn.init.zeros_(module.expand.weight)
    with torch.no_grad():
        assert torch.equal(model(images), made(images))


def test_stages_choose() -> None:
    with torch.device("meta"):
        made = insert_rf_cells(timm.create_model("resnet18"), stages=(3, 4))
        deep = insert_rf_cells(timm.create_model("resnet50"), stages=(4,))
    cells = [n for n, m in made.named_modules() if isinstance(m, RFCell)]
    assert [n.split(".")[0] for n in cells] == ["layer3"] * 2 + ["layer4"] * 2
    assert sum(isinstance(m, RFCell) for m in deep.modules()) == 3
    assert deep.layer4[0].se.squeeze.in_channels == 2048


def test_mobilenets_take_cells_after_their_depthwise_convolutions() -> None:
    with torch.device("meta"):
        model = timm.create_model("mobilenetv2_100", num_classes=5)
        made, late = (insert_rf_cells(model, "M1", stages=stages) for stages in (None, (6, 7)))
        assert made(torch.zeros(2, 3, 128, 128)).shape == (2, 5)
    cells = {n: m for n, m in made.named_modules() if isinstance(m, RFCell)}
    assert len(cells) == 16 and all(name.endswith(".se") for name in cells)
    assert cells["blocks.1.0.se"].squeeze.in_channels == 96
    few = [n for n, m in late.named_modules() if isinstance(m, RFCell)]
    assert {name.split(".")[1] for name in few} == {"5", "6"}


@pytest.mark.parametrize("name", GENOTYPES)
def test_genotypes_go_through_json(name: str) -> None:
    assert Genotype.from_dict(GENOTYPES[name].to_dict()) == GENOTYPES[name]
    assert [len(edges) for edges in GENOTYPES[name].nodes] == [1, 2, 3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RFCell(24), FamilyError, "multiple of 16"),
        (lambda: RFCell(16, reduction=0), FamilyError, "and 0"),
        (lambda: RFCell(16, semantics="sum"), FamilyError, "node-sum or released"),
        (lambda: RFCell(16, "P2"), RecipeError, "no genotype 'P2'"),
        (lambda: Genotype(()), RecipeError, "at least one edge"),
        (lambda: Genotype(((("none", 0),),)), RecipeError, "no operation 'none'"),
        (lambda: Genotype(((("max3", 1),),)), RecipeError, "states 0 to 0, got 1"),
        (lambda: Genotype.from_dict({"nodes": [[3]]}), RecipeError, "restore the file"),
        (lambda: insert_rf_cells(nn.Linear(2, 2)), NoEffectError, "No residual block"),
        (lambda: insert_rf_cells(rf_resnet(8)), FamilyError, "attention already"),
        (lambda: insert_rf_cells(cifar_resnet(8, width=8)), FamilyError, "multiple of 16"),
        (lambda: cifar_resnet(21), FamilyError, "6 n"),
    ],
)
def test_bad_calls_are_refused(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
