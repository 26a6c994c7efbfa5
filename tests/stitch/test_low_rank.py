import copy
import io

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from sartor.core import FamilyError
from sartor.core.modes import eval_mode
from sartor.stitch import folded, least_squares_affine
from sartor.stitch.low_rank import LowRankStitch


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(*, trained: bool = True) -> LowRankStitch:
    torch.manual_seed(0)
    layer = LowRankStitch(3, 5, rank=2)
    if trained:
        with torch.no_grad():
            layer.lora_B.copy_(noise(5, 2, seed=1))
    return layer


def test_the_cards_figures() -> None:
    layer = made(trained=False)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {
        "base_layer.weight": (5, 3),
        "base_layer.bias": (5,),
        "lora_A": (2, 3),
        "lora_B": (5, 2),
    }
    frozen = [name for name, p in layer.named_parameters() if not p.requires_grad]
    assert frozen == ["base_layer.weight"] and layer.scaling == 0.5
    assert not layer.lora_B.any() and layer.lora_A.any()
    # Kaiming-uniform with a = sqrt(5): within 1 / sqrt(C_in)
    assert LowRankStitch(400, 300, rank=8).lora_A.abs().max() <= 1 / 20


def test_the_formula_in_train_and_eval_mode() -> None:
    layer, x = made(), noise(7, 4, 3)
    weight = layer.weight.clone()
    with torch.no_grad():
        by_hand = x @ weight.T + layer.bias + 0.5 * (x @ layer.lora_A.T) @ layer.lora_B.T
        first = layer(x)
        merged = layer.eval()(x)
        again = layer.train()(x)
    torch.testing.assert_close(first, by_hand, atol=1e-6, rtol=0)
    torch.testing.assert_close(merged, first, atol=2e-7, rtol=1e-6)
    assert torch.equal(first, again) and torch.equal(layer.weight, weight)


def test_without_a_correction_it_is_the_least_squares_layer_exactly() -> None:
    x, y = noise(40, 3, seed=2), noise(40, 5, seed=3)
    weight, bias = least_squares_affine(x, y)
    plain = nn.functional.linear(x, weight, bias)
    layer = made()
    for mode in (True, False):
        layer.train(mode)
        layer.init_least_squares(x, y)
        assert layer.training is mode and not layer.lora_B.any()
        assert torch.equal(layer(x), plain)
    layer.unmerge()
    assert torch.equal(layer(x), plain)


def test_merging_and_unmerging_are_idempotent() -> None:
    layer, x = made().eval(), noise(2, 3)
    once = layer(x)
    for _ in range(3):
        layer.merge()
        assert torch.equal(layer(x), once)
    layer.unmerge()
    base = layer.base_layer.weight.clone()
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, base) and torch.equal(made().weight, base)


def test_merging_takes_the_correction_of_now() -> None:
    layer, x = made().eval(), noise(2, 3)
    with torch.no_grad():
        layer.lora_B.mul_(3)
    layer.eval()
    wanted = copy.deepcopy(layer).train()(x)
    torch.testing.assert_close(layer(x), wanted, atol=1e-6, rtol=0)


def test_a_mode_that_is_set_by_hand_does_not_add_the_correction_twice() -> None:
    layer, x = made(), noise(2, 3)
    wanted = layer(x)
    with eval_mode(layer):
        torch.testing.assert_close(layer(x), wanted, atol=1e-6, rtol=0)
    assert layer.training and torch.equal(layer(x), wanted)


@pytest.mark.parametrize("merged", [False, True], ids=["train", "eval"])
def test_a_state_dict_is_always_unmerged(merged: bool) -> None:
    layer = made()
    wanted = {name: value.clone() for name, value in layer.state_dict().items()}
    state = nn.Sequential(layer).train(not merged).state_dict()
    assert list(state) == [f"0.{name}" for name in wanted]
    assert all(torch.equal(state[f"0.{name}"], value) for name, value in wanted.items())
    x = noise(2, 3)
    for mode in (True, False):
        other = nn.Sequential(LowRankStitch(3, 5, rank=2)).train(mode)
        other.load_state_dict(load(save(state)))
        torch.testing.assert_close(other(x), layer(x), atol=1e-6, rtol=0)
        assert torch.equal(other[0].weight, wanted["base_layer.weight"])
        buffer = io.BytesIO()
        torch.save(copy.deepcopy(other).state_dict(), buffer)
        buffer.seek(0)
        again = torch.load(buffer, weights_only=True)
        assert torch.equal(again["0.base_layer.weight"], wanted["base_layer.weight"])


def test_it_trains_its_bias_and_factors_alone() -> None:
    layer, x = made(trained=False), noise(16, 3)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # B moves first, then A
        layer(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        layer.eval()(x)
        layer.train()
    changed = {name for name, p in layer.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"base_layer.bias", "lora_A", "lora_B"}


def test_merging_inside_inference_mode_leaves_it_trainable() -> None:
    layer, x = made(), noise(2, 3)
    with torch.inference_mode():
        layer.eval()(x)
    layer.train()(x).sum().backward()
    assert layer.lora_A.grad is not None and torch.equal(layer.weight, made().weight)
    copy.deepcopy(layer.eval())


@pytest.mark.parametrize("merged", [False, True], ids=["train", "eval"])
def test_folding(merged: bool) -> None:
    layer = made().train(not merged)
    x = noise(2, 3)
    plain = folded(nn.Sequential(copy.deepcopy(layer)), index=0)
    assert type(plain[0]) is nn.Linear and plain[0].training is not merged
    assert all(p.requires_grad for p in plain.parameters())
    assert torch.equal(plain(x), layer.eval()(x))
    assert plain[0].weight.data_ptr() != layer.base_layer.weight.data_ptr()


def test_it_is_where_it_is_told_to_be() -> None:
    layer = LowRankStitch(3, 5, rank=2, device="meta", dtype=torch.bfloat16)
    assert all(p.is_meta and p.dtype is torch.bfloat16 for p in layer.eval().parameters())
    plain = layer.fold(0)
    assert isinstance(plain, nn.Linear) and plain.weight.is_meta
    assert plain.weight.dtype is torch.bfloat16


@pytest.mark.parametrize("rank", [0, -1])
def test_ranks_below_one_are_refused(rank: int) -> None:
    with pytest.raises(FamilyError, match=f"at least 1, got {rank}"):
        LowRankStitch(3, 5, rank=rank)


@pytest.mark.parametrize("rank", [3, 4])
def test_a_rank_that_saves_nothing_is_told(rank: int) -> None:
    with pytest.warns(UserWarning, match=f"rank {rank} is as large .* 3 and 5 channels.*below 3"):
        LowRankStitch(3, 5, rank=rank)
