"""Late dropout: where it is set, when, and that nothing else changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import ArtifactError, FamilyError, NoEffectError, RecipeError
from sartor.nn import tiny_vit
from sartor.train import (
    DropoutSchedule,
    TrainSettings,
    dropout_rate,
    dropout_sites,
    insert_dropout_,
    train,
)


def net(rate: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(rate), nn.Linear(32, 4))


def losses(model: nn.Module, steps: range, schedule: Callable[[int], object]) -> list[float]:
    """A plain loop; masks follow the number of the step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = []
    model.train()
    for step in steps:
        torch.manual_seed(step)
        schedule(step)
        inputs = torch.randn(16, 8)
        loss = F.cross_entropy(model(inputs), inputs[:, :4].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.append(loss.item())
    return made


def test_the_rate_is_zero_and_then_exactly_the_rate() -> None:
    model = net(0.7)
    schedule = DropoutSchedule(model, total_steps=9, rate=0.3, start=0.5)
    rates = [(schedule(step), model[2].p) for step in range(9)]
    assert rates == [(0.0, 0.0)] * 5 + [(0.3, 0.3)] * 4
    schedule.restore()
    assert model[2].p == 0.7


@pytest.mark.parametrize(("start", "zeros"), [(0.0, 0), (0.25, 5), (1.0, 20)])
def test_any_start(start: float, zeros: int) -> None:
    rates = [dropout_rate(step, 20, rate=0.2, start=start) for step in range(20)]
    assert rates == [0.0] * zeros + [0.2] * (20 - zeros)


def test_a_ramp_has_four_stairs() -> None:
    rates = [dropout_rate(s, 40, rate=0.4, start=0.5, ramp_steps=12) for s in range(40)]
    assert rates[:20] == [0.0] * 20 and rates[32:] == [0.4] * 8
    assert sorted({round(r, 6) for r in rates}) == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert rates == sorted(rates)


def test_rate_zero_equals_no_schedule_bit_for_bit() -> None:
    plain, scheduled = net(), net()
    first = losses(plain, range(12), lambda step: None)
    second = losses(scheduled, range(12), DropoutSchedule(scheduled, total_steps=12, rate=0.0))
    assert first == second
    for a, b in zip(plain.parameters(), scheduled.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_equals_no_dropout_until_the_switch_and_differs_after() -> None:
    model = net()
    plain = losses(net(), range(12), lambda step: None)
    late = losses(model, range(12), DropoutSchedule(model, total_steps=12, rate=0.5))
    assert late[:6] == plain[:6] and late[6] != plain[6]


def test_eval_never_depends_on_it() -> None:
    model = tiny_vit(embed_dim=16, depth=1)
    images = torch.randn(2, 1, 8, 8)
    wanted = model.eval()(images)
    schedule = DropoutSchedule(model, total_steps=2, rate=0.9)
    for step in range(2):
        schedule(step)
        assert torch.equal(model(images), wanted)
    assert not torch.equal(model.train()(images), wanted)


def test_what_torch_and_timm_drop_is_found() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    found = {(site.path, site.attribute) for site in dropout_sites(layer)}
    assert found >= {("self_attn", "dropout"), ("dropout", "p"), ("dropout1", "p")}
    assert {s.attribute for s in dropout_sites(nn.LSTM(4, 4, 2))} == {"dropout"}
    paths = {site.path for site in dropout_sites(tiny_vit(depth=1))}
    assert {"blocks.0.attn.attn_drop", "blocks.0.attn.proj_drop", "blocks.0.mlp.drop1"} <= paths
    only = dropout_sites(tiny_vit(depth=1), targets="*.attn_drop")
    assert [site.path for site in only] == ["blocks.0.attn.attn_drop"]


def test_stochastic_depth_only_when_asked() -> None:
    from timm.layers import DropPath

    model = nn.Sequential(nn.Linear(4, 4), DropPath(0.1))
    assert dropout_sites(model) == ()
    schedule = DropoutSchedule(model, total_steps=2, rate=0.4, drop_path=True)
    assert model[1].drop_prob == 0.0
    schedule(1)
    assert model[1].drop_prob == 0.4


class Functional(nn.Module):
    """Attention whose dropout is a number of its own, as in the Llama family."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_dropout = 0.0

    def forward(self, x: Tensor) -> Tensor:
        rate = self.attention_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(x, x, x, dropout_p=rate)


def test_a_named_number_reaches_functional_attention() -> None:
    model = Functional()
    with pytest.raises(NoEffectError, match="attention_dropout"):
        DropoutSchedule(model, total_steps=2)
    schedule = DropoutSchedule(model, total_steps=2, rate=0.5, attributes=("attention_dropout",))
    x = torch.randn(1, 2, 8, 4)
    before = model(x)
    schedule(1)
    torch.manual_seed(0)
    assert not torch.equal(model(x), before)
    assert torch.equal(model.eval()(x), before)


def test_a_model_without_dropout_is_told_where_it_could_go() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(NoEffectError, match="it could go after 0"):
        DropoutSchedule(model, total_steps=2)
    names = list(model.state_dict())
    assert insert_dropout_(model, "0") == ("0",) and list(model.state_dict()) == names
    schedule = DropoutSchedule(model, total_steps=2, rate=0.5)
    x = torch.ones(64, 4)
    assert torch.equal(model(x), model(x))
    schedule(1)
    assert not torch.equal(model(x), model(x))
    with pytest.raises(NoEffectError, match="No module without inserted dropout"):
        insert_dropout_(model, "0")


def test_a_llama_gets_dropout() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    with pytest.raises(NoEffectError, match="mlp"):
        DropoutSchedule(model, total_steps=2)
    insert_dropout_(model, "*.mlp")
    schedule = DropoutSchedule(
        model, total_steps=2, rate=0.5, attributes=("attention_dropout",), start=0.0
    )
    assert {site.attribute for site in schedule.sites} == {"p", "attention_dropout"}
    tokens = torch.arange(10).unsqueeze(0)
    assert not torch.equal(model(tokens).logits, model(tokens).logits)


def test_inserting_after_what_returns_no_tensor_is_refused_at_use() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    model = nn.Sequential(Pair())
    insert_dropout_(model, "0")
    with pytest.raises(FamilyError, match="returns tuple and not a tensor"):
        model(torch.ones(1))


@pytest.mark.parametrize(
    "asked",
    [{"rate": 1.0}, {"rate": -0.1}, {"start": 1.5}, {"start": -0.1}, {"ramp_steps": -1}],
)
def test_bad_settings_are_refused(asked: dict) -> None:
    with pytest.raises(RecipeError, match=r"rate in \[0, 1\), start in \[0, 1\]"):
        DropoutSchedule(net(), total_steps=10, **asked)
    with pytest.raises(RecipeError, match="total_steps >= 1"):
        dropout_rate(0, 0)


def test_a_run_that_is_taken_up_again_goes_on_the_same() -> None:
    whole, half = net(), net()
    wanted = losses(whole, range(12), DropoutSchedule(whole, total_steps=12, rate=0.4))
    first = DropoutSchedule(half, total_steps=12, rate=0.4)
    begun = losses(half, range(8), first)  # 2 steps after the switch
    weights = {key: value.clone() for key, value in half.state_dict().items()}
    again = net(0.9)
    again.load_state_dict(weights)
    second = DropoutSchedule(again, total_steps=12, rate=0.4)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert again[2].p == 0.4
    assert begun + losses(again, range(8, 12), second) == wanted
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    second.restore()
    assert again[2].p == 0.0  # as it was before the first half


def test_a_state_of_other_settings_is_refused() -> None:
    state = DropoutSchedule(net(), total_steps=12, rate=0.4).state_dict()
    with pytest.raises(ArtifactError, match="build it with the saved settings"):
        DropoutSchedule(net(), total_steps=13, rate=0.4).load_state_dict(state)


def test_the_loop_resumes_to_the_same_weights(tmp_path: Path) -> None:
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(inputs, inputs[:, :4].argmax(1)), batch_size=16, shuffle=True)
    cross_entropy = lambda model, x, y: F.cross_entropy(model(x), y)  # noqa: E731
    settings = TrainSettings(epochs=4, lr=1e-2)

    def trained(folder: Path, *deadlines: float) -> nn.Module:
        for deadline in deadlines:
            model = net()
            schedule = DropoutSchedule(model, total_steps=16, rate=0.5, start=0.3)
            more = {"folder": folder, "on_step": schedule, "deadline": deadline}
            train(model, loader, cross_entropy, settings, **more)
        return model

    once = trained(tmp_path / "once", float("inf"))
    resumed = trained(tmp_path / "parts", 0.0, 0.0, float("inf"))  # an epoch, one more, the rest
    for a, b in zip(once.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_compiled_model_follows_the_switch() -> None:
    model = net()
    schedule = DropoutSchedule(model, total_steps=4, rate=0.5)
    compiled = torch.compile(model, backend="eager")
    x = torch.ones(16, 8)
    torch.manual_seed(0)
    before = compiled(x)
    assert torch.equal(compiled(x), before)
    schedule(2)
    torch.manual_seed(0)
    dropped = compiled(x)
    torch.manual_seed(0)
    assert torch.equal(dropped, model(x)) and not torch.equal(dropped, before)
    schedule(0)
    assert torch.equal(compiled(x), before)


def test_checkpointing_draws_the_same_mask_again() -> None:
    from torch.utils.checkpoint import checkpoint

    def gradient(run: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        model = net()
        DropoutSchedule(model, total_steps=2, rate=0.5)(1)
        torch.manual_seed(3)
        run(model, torch.ones(4, 8)).square().sum().backward()
        return model[0].weight.grad

    plain = gradient(lambda model, x: model(x))
    assert torch.equal(gradient(lambda m, x: checkpoint(m, x, use_reentrant=False)), plain)
