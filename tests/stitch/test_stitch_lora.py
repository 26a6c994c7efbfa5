import copy

import pytest
import torch
from torch import Tensor, nn

from sartor.core import FamilyError, RecipeError
from sartor.stitch.stitch_lora import StitchSpecificLoRALinear


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(in_features: int = 6, out_features: int = 10, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, bias=bias)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(noise(*parameter.shape, seed=seed))
    return layer


def adapted(rank: int = 3, *, bias: bool = True, trained: bool = True, **kwargs: object):
    torch.manual_seed(0)
    layer = StitchSpecificLoRALinear(linear(bias=bias), rank, 4, **kwargs)  # type: ignore[arg-type]
    if trained:
        with torch.no_grad():
            layer.lora_b.copy_(noise(*layer.lora_b.shape, seed=7))
            for key, beta in layer.stitch_bias.items():
                beta.copy_(noise(len(beta), seed=20 + int(key)))
    return layer


def test_it_starts_as_the_base_bit_for_bit() -> None:
    layer, inputs = adapted(trained=False), noise(5, 6)
    assert torch.any(layer.lora_a != 0)
    for index in range(4):
        layer.set_stitch(index)
        assert torch.equal(layer(inputs), layer.base(inputs))
        assert torch.equal(layer.merge(index)(inputs), layer.base(inputs))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_the_formula_and_the_merged_layer(bias: bool, alpha: float | None) -> None:
    layer, inputs = adapted(bias=bias, alpha=alpha), noise(2, 5, 6)
    scale = 1.0 if alpha is None else alpha / 3
    for index in range(4):
        layer.set_stitch(index)
        weight = layer.base.weight + scale * layer.lora_b @ layer.lora_a
        wanted = inputs @ weight.T + layer.stitch_bias[str(index)]
        wanted = wanted + layer.base.bias if bias else wanted
        assert torch.allclose(layer(inputs), wanted, atol=1e-5)
        merged = layer.merge(index)
        assert type(merged) is nn.Linear and merged.bias is not None
        assert torch.allclose(merged(inputs), layer(inputs), atol=1e-5)
        assert layer.num_params(index) == sum(p.numel() for p in merged.parameters())


def test_a_bias_belongs_to_its_configuration_alone() -> None:
    layer, inputs = adapted(), noise(5, 6)

    def outputs() -> list[Tensor]:
        made = []
        for index in range(4):
            layer.set_stitch(index)
            made.append(layer(inputs))
        return made

    before = outputs()
    with torch.no_grad():
        layer.stitch_bias["2"].add_(1.0)
    after = outputs()
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True] * 2 + [
        False,
        True,
    ]
    with torch.no_grad():
        layer.lora_b.add_(1.0)
    assert not any(torch.equal(a, b) for a, b in zip(after, outputs(), strict=True))


def test_biases_of_others_are_bit_identical_after_steps() -> None:
    layer = adapted()
    frozen = {key: beta.detach().clone() for key, beta in layer.stitch_bias.items()}
    base = copy.deepcopy(layer.base)
    trained = [p for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.5)
    layer.set_stitch(1)
    for seed in range(3):
        layer(noise(5, 6, seed=seed)).square().sum().backward()
        assert [k for k, beta in layer.stitch_bias.items() if beta.grad is not None] == ["1"]
        optimizer.step()
        optimizer.zero_grad()
    changed = [k for k, beta in layer.stitch_bias.items() if not torch.equal(beta, frozen[k])]
    assert changed == ["1"]
    assert torch.equal(base.weight, layer.base.weight) and torch.equal(base.bias, layer.base.bias)


def test_only_those_who_pass_have_a_bias() -> None:
    layer, inputs = adapted(visited=(3, 1, 3)), noise(5, 6)
    assert sorted(layer.stitch_bias) == ["1", "3"]
    layer.set_stitch(0)
    shared = layer(inputs)
    assert torch.allclose(layer.merge(0)(inputs), shared, atol=1e-5)
    layer.set_stitch(3)
    assert torch.allclose(layer(inputs), shared + layer.stitch_bias["3"])
    assert not adapted(visited=()).stitch_bias


def test_a_layer_without_bias_stays_so_where_no_configuration_passes() -> None:
    layer = adapted(bias=False, visited=(1,))
    assert layer.merge(0).bias is None and layer.num_params(0) == 60
    assert layer.merge(1).bias is not None and layer.num_params(1) == 70


def test_parameters_of_the_card() -> None:
    def trained(width: int, out: int) -> int:
        layer = StitchSpecificLoRALinear(nn.Linear(width, out), 4, 9, visited=())
        return sum(p.numel() for p in layer.parameters() if p.requires_grad)

    assert sum(4 * (trained(d, 3 * d) + trained(d, d)) for d in (12, 32)) == 4224
    assert 4 * trained(12, 32) == 704


@pytest.mark.parametrize("rank", [0, -1, 7])
def test_ranks_that_do_not_fit_are_refused(rank: int) -> None:
    with pytest.raises(RecipeError, match=f"1 to 6 for a layer of 6 to 10 features, got {rank}"):
        StitchSpecificLoRALinear(nn.Linear(6, 10), rank, 4)


@pytest.mark.parametrize("index", [-1, 4])
def test_configurations_out_of_range_are_refused(index: int) -> None:
    layer = adapted()
    layer.set_stitch(2)
    for verb in (layer.set_stitch, layer.merge, layer.fold):
        with pytest.raises(FamilyError, match=f"no configuration {index}; choose among 0 to 3"):
            verb(index)
    assert layer.active.index == 2
    with pytest.raises(FamilyError, match="choose among 0 to 3"):
        adapted(visited=(index,))


def test_precision_and_mode_follow_the_base() -> None:
    layer = StitchSpecificLoRALinear(nn.Linear(6, 10).double(), 2, 4)
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert layer.eval().merge(0).weight.dtype == torch.float64 and not layer.merge(0).training
