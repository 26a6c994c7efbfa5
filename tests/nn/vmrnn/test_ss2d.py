"""SS2D: the card's case, symmetries of the four ways, the contract of layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import FamilyError
from sartor.nn.sources import seeded
from sartor.nn.vmrnn.ss2d import SS2D, cross_merge, cross_scan
from sartor.testing import LayerContract


class TestContract(LayerContract):
    def layer(self) -> nn.Module:
        return SS2D(8, d_state=4)

    def inputs(self) -> Tensor:
        return torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))


def test_parameters_are_the_card_s() -> None:
    assert sum(p.numel() for p in SS2D(128).parameters()) == 168_960


def test_the_card_s_case() -> None:
    layer = SS2D(8, d_state=4)
    with torch.no_grad():
        for parameter in layer.parameters():
            waves = 0.3 * torch.sin(0.7 * torch.arange(parameter.numel()))
            parameter.copy_(waves.view_as(parameter))
        y = layer(torch.cos(0.37 * torch.arange(2 * 3 * 4 * 8)).view(2, 3, 4, 8))
    wanted = [0.567873, 0.035615, -0.553413, -0.260306, 0.447726, 0.442087, -0.268234, -0.550993]
    assert torch.allclose(y[0, 0, 0], torch.tensor(wanted), atol=2e-6)
    assert float(y.sum()) == pytest.approx(-0.339953, abs=2e-5)


def test_what_is_taken_apart_comes_back_four_fold() -> None:
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(cross_merge(cross_scan(x), 3, 5), 4 * x)


def test_transposing_swaps_rows_and_columns() -> None:
    with seeded(0):
        layer, turned = SS2D(8, d_state=4).double(), SS2D(8, d_state=4).double()
        x = torch.randn(2, 4, 4, 8, dtype=torch.float64)
    state = layer.state_dict()
    swap = torch.tensor([1, 0, 3, 2])
    for name in ("x_proj_weight", "dt_projs_weight", "dt_projs_bias"):
        state[name] = state[name][swap]
    for name in ("A_logs", "Ds"):
        state[name] = state[name].unflatten(0, (4, -1))[swap].flatten(0, 1)
    state["conv2d.weight"] = state["conv2d.weight"].transpose(2, 3)
    turned.load_state_dict(state)
    assert torch.allclose(turned(x.transpose(1, 2)), layer(x).transpose(1, 2), atol=1e-12)
    assert not torch.allclose(layer(x.transpose(1, 2)), layer(x).transpose(1, 2), atol=1e-3)


def test_all_methods_agree_on_maps_that_are_not_square() -> None:
    x = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    outputs = []
    for method in ("chunked", "associative", "sequential"):
        with seeded(0), torch.no_grad():
            outputs.append(SS2D(8, d_state=4, scan=method)(x))
    assert torch.allclose(outputs[0], outputs[2], atol=1e-6)
    assert torch.allclose(outputs[1], outputs[2], atol=1e-6)


def test_how_it_begins() -> None:
    with seeded(0):
        layer = SS2D(32, d_state=4)
    assert torch.allclose(layer.A_logs[0].exp(), torch.arange(1.0, 5.0))
    assert layer.Ds.eq(1).all() and layer.no_weight_decay() == {"A_logs", "Ds"}
    steps = F.softplus(layer.dt_projs_bias)
    low, high = (float(end) for end in steps.detach().aminmax())
    assert low >= 0.001 - 1e-6 and high <= 0.1 + 1e-6
    assert layer.dt_projs_weight.abs().max() <= layer.dt_rank**-0.5


@pytest.mark.parametrize(
    "kwargs",
    [{"dim": 0}, {"dim": 8, "d_state": 0}, {"dim": 8, "d_conv": 2}, {"dim": 1, "expand": 0.5}],
)
def test_bad_numbers_are_refused(kwargs: dict[str, float]) -> None:
    with pytest.raises(FamilyError, match="An SS2D takes"):
        SS2D(**kwargs)
