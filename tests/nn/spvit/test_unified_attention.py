import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention, Mlp
from torch import Tensor, nn

from sartor.core import DataError, FamilyError
from sartor.nn.spvit.bottleneck_conv import BottleneckConv, conv_weights
from sartor.nn.spvit.gates import bernoulli_ste, hard_gates, nested_gates
from sartor.nn.spvit.unified_attention import KINDS, NoBranch, UnifiedAttention, UnifiedMlp
from sartor.testing import LayerContract


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestBottleneckConv(LayerContract):
    def layer(self) -> nn.Module:
        return BottleneckConv(8, 4, 3, (3, 4), prefix_tokens=1)

    def inputs(self) -> Tensor:
        return noise(2, 13, 8)


def unified() -> UnifiedAttention:
    """The card's layer, D 12 and 3 heads on 4 x 4, with statistics and head logits of its own."""
    torch.manual_seed(0)
    layer = UnifiedAttention(12, 3, grid_size=(4, 4)).eval()
    for norm in (layer.norm1, layer.norm3):
        nn.init.normal_(norm.running_mean)
        nn.init.normal_(norm.bias)
    nn.init.normal_(layer.head_probs, std=0.01)
    return layer


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_and_the_plain_layer_agree(kind: str) -> None:
    layer, x = unified(), noise(2, 17, 12)
    layer.choose(kind)
    assert layer.kind == kind
    plain = layer.compact(kind).eval()
    with torch.no_grad():
        assert torch.allclose(layer(x), plain(x), atol=1e-5)
        if kind == "skip":
            assert not layer(x).any()
        elif kind != "attention":
            assert torch.equal(layer(x)[:, 0], x[:, 0])


def test_kernel_positions_are_column_major() -> None:
    """Position k lies in row k % 3 and column k // 3: one head each, told apart by its value."""
    v, proj = torch.zeros(9, 9), torch.zeros(9, 9)
    v[:, 0] = torch.arange(9.0)
    weights = conv_weights(v, None, proj, torch.eye(9), kernel_size=3, alpha=0.01)
    expected = torch.tensor([[0.0, 3.0, 6.0], [1.0, 4.0, 7.0], [2.0, 5.0, 8.0]])
    assert torch.allclose(weights.inner[0, 0], expected, atol=1e-4)
    one = conv_weights(v, None, proj, torch.eye(9), kernel_size=1, alpha=0.01)
    assert float(one.inner[0, 0]) == pytest.approx(4.0, abs=1e-4)


def test_the_convolution_by_its_formula() -> None:
    """3x3: the sum over positions of shifted, head-mixed values, as the paper writes it."""
    layer, x = unified(), noise(1, 17, 12)
    p = (layer.head_probs / layer.alpha).softmax(dim=0)
    values, bias = layer.v.weight.view(3, 4, 12), layer.v.bias.view(3, 4)
    maps = F.pad(x[:, 1:].view(4, 4, 12).permute(2, 0, 1), (1, 1, 1, 1))
    hidden = torch.zeros(4, 4, 4)
    for k in range(9):
        w = torch.einsum("h,hed->ed", p[:, k], values)
        row, column = k % 3, k // 3
        hidden += torch.einsum("ed,dij->ije", w, maps[:, row : row + 4, column : column + 4])
        hidden += p[:, k] @ bias
    hidden = F.relu(layer.norm3(hidden.permute(2, 0, 1)[None])[0].permute(1, 2, 0))
    outer = torch.einsum("hk,dhe->de", p, layer.proj.weight.view(12, 3, 4))
    expected = hidden.flatten(0, 1) @ outer.T + layer.proj.bias
    assert torch.allclose(layer.branch(x, "conv3x3")[0, 1:], expected, atol=1e-5)


def test_all_gates_open_is_plain_attention() -> None:
    torch.manual_seed(0)
    plain = Attention(12, 3, qkv_bias=True)
    layer = UnifiedAttention.from_attention(plain, (4, 4), 1).eval()
    x = noise(2, 17, 12)
    with torch.no_grad():
        assert torch.allclose(layer(x), plain(x), atol=1e-6)


def test_only_the_dearest_open_gate_learns() -> None:
    def learning(values: list[float]) -> list[bool]:
        gates = torch.tensor(values, requires_grad=True)
        return [i.requires_grad for i in nested_gates(gates)]

    assert learning([1.0, 1.0, 1.0]) == [False, False, True]
    assert learning([1.0, 1.0, 0.0]) == [False, True, True]
    assert learning([1.0, 0.0, 1.0]) == [True, True, True]
    assert [float(i) for i in nested_gates(torch.tensor([0.0, 1.0, 1.0]))] == [0.0, 0.0, 0.0]


def test_sampled_gates() -> None:
    draws = bernoulli_ste(torch.full((20_000,), 0.8), generator=torch.Generator().manual_seed(0))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert draws.mean().item() == pytest.approx(0.8, abs=0.01)
    thresholds = torch.tensor([1.5, -1.5], requires_grad=True)
    gates = hard_gates(thresholds)
    gates.sum().backward()
    assert gates.tolist() == [1.0, 0.0]
    g = torch.sigmoid(torch.tensor([1.5, -1.5]))
    soft = torch.sigmoid(g - 0.5)
    assert thresholds.grad is not None
    assert torch.allclose(thresholds.grad, soft * (1 - soft) * g * (1 - g))


def test_everything_learns_in_the_search() -> None:
    torch.manual_seed(3)
    layer = UnifiedAttention(12, 3, grid_size=(4, 4), theta=0.0).train()
    for _ in range(12):
        (layer(noise(2, 17, 12)) ** 2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_hidden_units_are_sliced() -> None:
    torch.manual_seed(0)
    mlp = UnifiedMlp(Mlp(6, 10)).eval()
    x, units = noise(2, 5, 6), [1, 4, 9]
    mlp.choose(units)
    assert mlp.kept.tolist() == units
    plain = mlp.compact(units)
    with torch.no_grad():
        assert torch.allclose(mlp(x), plain(x), atol=1e-6)
    assert torch.equal(plain.fc2.weight, mlp.fc2.weight[:, units])
    mlp.choose([])
    with torch.no_grad():
        assert torch.allclose(mlp(x), mlp.compact([])(x), atol=1e-6)
    assert isinstance(mlp.compact([]), NoBranch)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((10, 4), {"grid_size": (4, 4)}, "multiple of num_heads"),
        ((8, 2), {"grid_size": (4, 4), "alpha": 0.0}, "alpha above 0"),
        ((8, 2), {"grid_size": (0, 4)}, "at least 1 x 1"),
    ],
)
def test_settings_that_cannot_be(args: tuple[int, int], kwargs: dict, words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        UnifiedAttention(*args, **kwargs)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(FamilyError, match="kernel of 1 or 3"):
        BottleneckConv(8, 4, 5, (4, 4))
    conv = BottleneckConv(8, 4, 3, (4, 4), prefix_tokens=1)
    with pytest.raises(DataError, match="16 tokens in all"):
        conv(noise(1, 16, 8))
    for layer in (conv, unified()):
        with pytest.raises(DataError, match="no mask"):
            layer(noise(1, 17, 8), is_causal=True)
