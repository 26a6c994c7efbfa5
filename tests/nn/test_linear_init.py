import torch
from torch import nn

from sartor.nn.linear_init import init_linear_


def test_linear_layers_alone_are_drawn_within_two_units() -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.Linear(8, 8, bias=False), nn.Conv2d(3, 8, 3))
    kept = model[2].weight.detach().clone()
    model.apply(init_linear_)
    assert abs(float(model[0].weight.detach().std()) - 0.02) < 1e-3
    assert float(model[0].bias.detach().abs().max()) == 0
    assert torch.equal(model[2].weight, kept)
