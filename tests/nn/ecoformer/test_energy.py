import pytest
import torch
from timm.layers import Attention
from torch import nn

from sartor.core import DataError, RecipeError
from sartor.nn.ecoformer.attention import EcoAttention
from sartor.nn.ecoformer.energy import (
    EnergyTable,
    attention_energy,
    eco_operations,
    softmax_operations,
)
from sartor.reproduce.ecoformer import PUBLISHED, backbone_energy


@pytest.mark.parametrize(
    ("size", "mul", "add", "pj"),
    [
        ("b0", 0.540, 0.569, 2.509),
        ("b1", 2.038, 2.098, 9.429),
        ("b2", 3.869, 3.981, 17.896),
        pytest.param("b3", 6.563, 6.737, 30.347, marks=pytest.mark.slow),
        pytest.param("b4", 9.602, 9.855, 44.398, marks=pytest.mark.slow),
    ],
)
def test_counts_of_the_card(size: str, mul: float, add: float, pj: float) -> None:
    energy = backbone_energy(size)
    counted = (energy.mul / 1e9, energy.add / 1e9, energy.pj / 1e9)
    assert counted == pytest.approx((mul, add, pj), abs=6e-4)
    assert counted == pytest.approx(PUBLISHED[size], rel=0.02)


def test_softmax_of_the_card() -> None:
    energy = backbone_energy("b0", eco=False)
    assert energy.mul / 1e9 == pytest.approx(2.021, abs=6e-4)
    assert energy.add / 1e9 == pytest.approx(1.998, abs=6e-4)
    assert energy.pj / 1e9 == pytest.approx(9.274, abs=6e-4)
    assert backbone_energy("b0").pj / energy.pj == pytest.approx(0.2705, abs=1e-4)


def test_cost_a_token() -> None:
    counts = [eco_operations(n, 2, 16) for n in (64, 256, 1024)]
    assert len({(m // n, a // n) for (m, a), n in zip(counts, (64, 256, 1024), strict=True)}) == 1
    one, two = softmax_operations(64, 2, 16), softmax_operations(256, 2, 16)
    assert two[0] == 16 * one[0] and two[1] == 16 * one[1]


def test_a_layer_by_hand() -> None:
    """Projections: 30 tokens, 16 to 16 channels with bias, three or four times."""
    eco = attention_energy(EcoAttention(16, 2, random_hash=True), (30, 16))
    assert eco.mul == 3 * 30 * (16 * 16 + 16) + eco_operations(30, 2, 8)[0]
    plain = attention_energy(Attention(16, 2, qkv_bias=True), (30, 16))
    assert plain.add == 4 * 30 * (16 * 16 + 16) + 2 * 30**2 * 16
    free = attention_energy(
        EcoAttention(16, 2, random_hash=True), (30, 16), table=EnergyTable(mul=0, add=1)
    )
    assert free.pj == eco.add


def test_bad_input() -> None:
    with pytest.raises(RecipeError, match="at least 0"):
        EnergyTable(mul=-1)
    with pytest.raises(DataError, match="Nothing in ReLU"):
        attention_energy(nn.ReLU(), (3,))
    assert torch.is_grad_enabled()
