import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import DataError, FamilyError, RecipeError
from sartor.nn.sources import seeded
from sartor.nn.sparse_mlp.mixer import (
    MoELayer,
    ReRepresent,
    SparseMixerBlock,
    aux_loss,
    routing_report,
)
from sartor.nn.sparse_mlp.top_k_router import load_balance_loss
from sartor.testing import LayerContract


@pytest.mark.slow
class TestBlock(LayerContract):
    def layer(self) -> nn.Module:
        return SparseMixerBlock(6, 8, 8, 16, token_experts=3, channel_experts=2, channel_k=2)

    def inputs(self) -> Tensor:
        return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("numbers", "token_experts", "channel_experts", "params"),
    [
        ((196, 512, 256, 2048), 4, 1, 2_276_044),
        ((196, 768, 384, 3072), 8, 1, 5_527_308),
        ((196, 768, 384, 3072), 16, 4, 15_034_892),
    ],
)
def test_parameters_are_the_card_s(
    numbers: tuple, token_experts: int, channel_experts: int, params: int
) -> None:
    with torch.device("meta"):
        block = SparseMixerBlock(
            *numbers, token_experts=token_experts, channel_experts=channel_experts
        )
    assert sum(p.numel() for p in block.parameters()) == params


def test_token_experts_get_rows_of_channels() -> None:
    with seeded(0):
        layer, x = MoELayer(5, 7, 3, axis="token").eval(), torch.randn(2, 5, 4)
    rows = x.transpose(1, 2).reshape(8, 5)
    routing = layer.router(rows)
    wanted = layer.experts(rows, routing.weights, routing.indices).view(2, 4, 5).transpose(1, 2)
    assert torch.equal(layer(x), wanted)
    (shares,) = routing_report(layer).values()
    assert len(shares) == 3 and sum(shares) == pytest.approx(1)


def test_one_expert_is_a_plain_mlp() -> None:
    with seeded(0):
        layer, x = MoELayer(4, 7, 1), torch.randn(2, 5, 4)
    experts = layer.experts
    hidden = F.gelu(F.linear(x, experts.fc1[0], experts.bias1[0]))
    wanted = F.linear(hidden, experts.fc2[0], experts.bias2[0])
    assert torch.allclose(layer(x), wanted, atol=1e-6)
    assert layer.router is None and routing_report(layer) == {}


def test_a_block_without_what_it_restores_is_the_identity() -> None:
    with seeded(0):
        block, x = SparseMixerBlock(6, 8, 8, 16), torch.randn(2, 6, 8)
    nn.init.zeros_(block.restore.channels.weight)
    assert torch.equal(block(x), x)


def test_losses_of_all_layers_are_added() -> None:
    with seeded(0):
        block = SparseMixerBlock(6, 8, 8, 16, token_experts=3, channel_experts=2)
        x = torch.randn(2, 6, 8)
    for router in (block.mlp_tokens.router, block.mlp_channels.router):
        router.noise_std = 1e-30  # as good as none, and the draws do not matter
    parts = []
    for layer in (block.mlp_tokens, block.mlp_channels):
        layer.router.register_forward_hook(lambda m, i, out: parts.append(load_balance_loss(out)))
    block.train()(x)
    total = aux_loss(block, weight=0.5)
    assert torch.allclose(total, 0.5 * (parts[0] + parts[1]))
    total.backward()
    assert all(p.grad is not None for n, p in block.named_parameters() if "router" in n)


def test_there_is_no_loss_before_training_or_without_experts() -> None:
    block, x = SparseMixerBlock(6, 8, 8, 16), torch.zeros(1, 6, 8)
    with pytest.raises(RecipeError, match="run it once in training mode"):
        aux_loss(block)
    block.train()(x)
    assert aux_loss(block).requires_grad
    with pytest.raises(RecipeError, match="run it once in training mode"):
        aux_loss(copy.deepcopy(block))  # a copy, such as a moving average, starts anew
    block.eval()(x)
    with pytest.raises(RecipeError, match="run it once in training mode"):
        aux_loss(block)
    with pytest.raises(RecipeError, match="at least one layer"):
        aux_loss(nn.Linear(2, 2))


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(FamilyError, match="even number"):
        SparseMixerBlock(4, 7, 8, 8)
    with pytest.raises(FamilyError, match="token or channel"):
        MoELayer(4, 8, 2, axis="head")
    with pytest.raises(DataError, match="build the model for this size"):
        ReRepresent(4, 8, 2, 2)(torch.zeros(1, 5, 8))
