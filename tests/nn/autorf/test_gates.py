"""Gates by hand, and against peers that were written by others."""

import pytest
import torch
from timm.layers import SEModule
from timm.layers.cbam import CbamModule

from sartor.nn.autorf.gates import CBAM, ChannelGate, ConvGate, SpatialGate
from sartor.nn.sources import seeded


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))


def test_a_gate_by_means_is_timms(x: torch.Tensor) -> None:
    with seeded(0):
        ours, peer = ChannelGate(8, 4), SEModule(8, rd_channels=2, bias=False)
    peer.load_state_dict({"fc1.weight": ours.squeeze.weight, "fc2.weight": ours.expand.weight})
    assert torch.allclose(ours(x), peer(x), atol=1e-7)


def test_cbam_is_timms(x: torch.Tensor) -> None:
    """timm's layers have no biases."""
    with seeded(0):
        ours, peer = CBAM(8, 4).eval(), CbamModule(8, rd_channels=2).eval()
    channel, spatial = ours
    for layer in (channel.squeeze, channel.expand):
        torch.nn.init.zeros_(layer.bias)
    conv, norm = spatial.layers
    peer.channel.fc1.weight, peer.channel.fc2.weight = channel.squeeze.weight, channel.expand.weight
    with torch.no_grad():  # timm reads mean, then maximum
        peer.spatial.conv.conv.weight.copy_(conv.weight.flip(1))
    peer.spatial.conv.bn = norm
    assert torch.allclose(ours(x), peer(x), atol=1e-6)


def test_maxima_and_means_go_through_the_same_layers(x: torch.Tensor) -> None:
    gate = ChannelGate(8, 4, maximum=True)
    flat = x.mean((2, 3), keepdim=True).expand_as(x)  # whose maxima are its means
    logits = gate.expand(gate.squeeze(flat[..., :1, :1]).relu())
    assert torch.allclose(gate(flat), flat * (2 * logits).sigmoid(), atol=1e-6)


def test_gates_of_zero_halve_the_map(x: torch.Tensor) -> None:
    class Zeros(torch.nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            seen.append(given)
            return torch.zeros_like(given[:, :1])

    seen: list[torch.Tensor] = []
    assert torch.equal(ConvGate(Zeros())(x), x / 2) and torch.equal(seen[0], x)
    assert torch.equal(SpatialGate(Zeros())(x), x / 2)
    assert torch.equal(seen[1], torch.stack((x.amax(1), x.mean(1)), dim=1))
