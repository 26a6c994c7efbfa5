"""Which operation saves a tensor, where, and along which dimension its groups lie."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.train.mesa.context import Mesa
from sartor.train.mesa.operation import Operation, Place, head_counts, kind_of
from sartor.train.mesa.settings import KINDS, MesaSettings

GROUPS = 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("linear", "linear"),
        ("conv_transpose2d", "conv"),
        ("bmm", "matmul"),
        ("scaled_dot_product_attention", "attention"),
        ("nll_loss", "loss"),
        ("group_norm", "layer_norm"),
        ("linalg_vector_norm", "singular"),
        ("add", "other"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind and kind in KINDS


class Maps(nn.Module):
    """GELU after a convolution, (B, C, H, W), or after a linear layer, (B, H, W, C)."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.layer: nn.Module = nn.Linear(4, 4) if last else nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.layer(x))


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
def test_groups_of_maps_lie_along_their_channels(last: bool) -> None:
    """Channels 2 and 3 are a thousand times larger: groups that mixed them would show it."""
    model = Maps(last=last)
    with torch.no_grad():
        model.layer.weight.copy_(torch.eye(4).view_as(model.layer.weight))
        model.layer.bias.zero_()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, 4, 4, generator=draw)  # as many rows and columns as channels
    dim = 3 if last else 1
    shape = [4 if d == dim else 1 for d in range(4)]
    x = (x * torch.tensor([1.0, 1.0, 1e3, 1e3]).view(shape)).requires_grad_()
    (wanted,) = torch.autograd.grad(model(x).sum(), x)
    with Mesa(model, MesaSettings(groups=GROUPS, momentum=None, min_numel=1)):
        out = model(x)
    (given,) = torch.autograd.grad(out.sum(), x)
    small = [0, 1]
    error = (given - wanted).abs().index_select(dim, torch.tensor(small)).max()
    assert 0 < float(error) < 0.04  # one group: steps of some 25


def test_a_flattened_product_keeps_its_heads() -> None:
    q = torch.zeros(2, 3, 5, 7)
    operation = Operation("matmul", (q, q.mT))
    assert operation.heads_of(torch.zeros(6, 5, 7)) == 3
    assert operation.heads_of(torch.zeros(5, 5, 7)) is None
    assert Operation("linear", (q,)).heads_of(torch.zeros(6, 5, 7)) is None


def test_statistics_are_told_from_values() -> None:
    q = torch.zeros(2, 3, 5, 7)
    attention = Operation("scaled_dot_product_attention", (q, q, q))
    assert attention.is_statistic(torch.zeros(2, 3, 5))
    assert not attention.is_statistic(q)
    assert not attention.is_statistic(torch.zeros(6, 5, 7))  # a product inside it
    norm = Operation("layer_norm", (torch.zeros(4, 5, 6),))
    assert norm.is_statistic(torch.zeros(4, 5, 1)) and not norm.is_statistic(torch.zeros(4, 5, 6))


def test_the_place_is_right_after_a_child_failed_and_was_caught() -> None:
    class Child(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child, self.after = Child(), Recorder()

        def forward(self, x: Tensor) -> Tensor:
            try:
                self.child(x)
            except ValueError:
                return self.after(x)
            return x

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(place.next_key())
            return x

    model = nn.Sequential(Parent(), Recorder())
    place, seen = Place(model), []
    with place.watch():
        model(torch.zeros(1))
        assert place.module == ""
    assert seen == ["0.after//0", "1//0"] and not model[0].child._forward_hooks


def test_heads_of_models_with_configs() -> None:
    model = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2), "b": nn.MultiheadAttention(8, 4)})
    assert head_counts(model) == {"": 2, "a": 2, "b": 4}
    assert head_counts(nn.Linear(2, 2)) == {}
