"""One gate with three tasks."""

import math

import pytest
import torch
from torch import Tensor, nn

from sartor.core import DataError, FamilyError
from sartor.nn.sources import seeded
from sartor.nn.vmrnn.cell import VMRNNCell, VSSBlock, shared_gate
from sartor.testing import LayerContract


@pytest.mark.slow
class TestBlock(LayerContract):
    def layer(self) -> nn.Module:
        return VSSBlock(8, d_state=4)

    def inputs(self) -> Tensor:
        return torch.randn(2, 4, 3, 8, generator=torch.Generator().manual_seed(0))


def test_outputs_of_zero_halve() -> None:
    cell = torch.tensor([2.0, -1.0])
    hidden, new = shared_gate(torch.zeros(2), cell)
    assert torch.equal(new, cell / 2)
    assert torch.allclose(hidden, torch.tensor([0.5 * math.tanh(1.0), 0.5 * math.tanh(-0.5)]))


def test_the_first_step_is_one_from_zeros() -> None:
    with seeded(0):
        cell, x = VMRNNCell(8, depth=2, d_state=4), torch.randn(2, 3, 4, 8)
    none, (h, c) = cell(x)
    zeros, _ = cell(x, (torch.zeros_like(x), torch.zeros_like(x)))
    assert torch.equal(none, zeros) and torch.equal(none, h) and c.shape == x.shape


def test_only_the_first_block_sees_the_hidden_map() -> None:
    with seeded(0):
        cell, x, h = (
            VMRNNCell(8, depth=3, d_state=4),
            torch.randn(1, 4, 4, 8),
            torch.randn(1, 4, 4, 8),
        )
    assert [block.mix is not None for block in cell.blocks] == [True, False, False]
    zeros = torch.zeros_like(x)
    assert not torch.allclose(cell(x, (h, zeros))[0], cell(x, (zeros, zeros))[0], atol=1e-3)


def test_the_hidden_map_goes_through_the_norm_of_the_input() -> None:
    with seeded(0):
        block, x, h = (
            VSSBlock(8, takes_hidden=True),
            torch.randn(1, 2, 2, 8),
            torch.randn(1, 2, 2, 8),
        )
    wanted = x + block.ss2d(block.mix(torch.cat((block.norm(x), block.norm(h)), dim=-1)))
    assert torch.equal(block(x, h), wanted)


def test_a_state_of_another_size_is_refused() -> None:
    cell = VMRNNCell(8, depth=1, d_state=4)
    _, state = cell(torch.zeros(1, 4, 4, 8))
    with pytest.raises(DataError, match="begin anew"):
        cell(torch.zeros(1, 2, 4, 8), state)


@pytest.mark.parametrize("kwargs", [{"depth": 0}, {"depth": 2, "drop_path": [0.1]}])
def test_bad_numbers_are_refused(kwargs: dict) -> None:
    with pytest.raises(FamilyError, match="A VMRNN cell takes"):
        VMRNNCell(8, **kwargs)
