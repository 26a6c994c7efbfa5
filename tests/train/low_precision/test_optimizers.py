"""Optimiser states and weights of few bits, learned steps, sent gradients, cyclic bits."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.core import ArtifactError, NoEffectError, RecipeError
from sartor.train import (
    ErrorFeedback,
    LearnedStep,
    LowPrecisionLinear,
    PrecisionSchedule,
    StochasticRounding,
    bake_steps_,
    cyclic_bits,
    learn_steps_,
    load_checkpoint,
    low_bit_adamw,
    prepare_low_precision_,
    quantize_gradient,
    sign_gradient,
    state_bytes,
    stochastic_round_bf16,
    top_k_gradient,
)
from sartor.train.checkpoint import save_checkpoint


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    return model.to(dtype)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    kind = next(model.parameters()).dtype
    for number in numbers:
        optimizer.zero_grad()
        model(normal(32, 64, seed=number).to(kind)).float().square().mean().backward()
        optimizer.step()


# --- stochastic rounding ------------------------------------------------------------------------


def test_rounding_to_bfloat16_gives_the_two_neighbours_and_the_mean() -> None:
    made = stochastic_round_bf16(torch.full((200_000,), 1.001), torch.Generator().manual_seed(0))
    assert set(made.unique().tolist()) == {1.0, 1.0078125}
    assert float(made.double().mean()) == pytest.approx(1.0010, abs=5e-5)
    odd = torch.tensor([float("inf"), float("nan"), -2.5])
    assert str(stochastic_round_bf16(odd).tolist()) == "[inf, nan, -2.5]"


def test_small_updates_are_lost_to_the_nearest_and_arrive_at_random() -> None:
    nearest = torch.ones(1, dtype=torch.bfloat16)
    for _ in range(100):
        nearest += 1e-3
    assert nearest.item() == 1.0
    weight = nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
    optimizer = StochasticRounding(torch.optim.SGD([weight], lr=1e-3), seed=1)
    for _ in range(100):
        weight.grad = -torch.ones_like(weight)
        optimizer.step()
    assert float(weight.detach().float().mean()) == pytest.approx(1.1, abs=2e-3)  # the card: 1.0997


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_any_optimiser_is_wrapped_and_resumes_bit_for_bit(kind: type) -> None:
    def build() -> tuple[nn.Module, StochasticRounding]:
        model = net(torch.bfloat16)
        return model, StochasticRounding(kind(model.parameters(), lr=1e-2), seed=3)

    whole, optimizer = build()
    steps(whole, optimizer, range(3))
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    steps(whole, optimizer, range(3, 6))
    again, resumed = build()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    steps(again, resumed, range(3, 6))
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert a.dtype is torch.bfloat16 and torch.equal(a, b)
    kept = [v for s in resumed.state.values() for v in s.values() if v.numel() > 1]
    assert all(value.dtype is torch.float32 for value in kept)


def test_it_resumes_from_a_checkpoint_without_pickle(tmp_path: Path) -> None:
    whole = net(torch.bfloat16)
    optimizer = StochasticRounding(torch.optim.AdamW(whole.parameters()), seed=3)
    steps(whole, optimizer, range(3))
    save_checkpoint(tmp_path, whole, optimizer, {"epoch": 1})
    steps(whole, optimizer, range(3, 5))
    again = net(torch.bfloat16)
    resumed = StochasticRounding(torch.optim.AdamW(again.parameters()), seed=3)
    load_checkpoint(tmp_path, again, resumed)
    steps(again, resumed, range(3, 5))
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_groups_are_shared_with_schedulers_and_closures_run() -> None:
    model = net(torch.bfloat16)
    inner = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer = StochasticRounding(inner)
    assert optimizer.param_groups[0] is inner.param_groups[0]
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert inner.param_groups[0]["lr"] == 0.5

    def closure() -> float:
        loss = model(normal(4, 64).bfloat16()).float().square().mean()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) > 0


def test_float32_weights_beside_are_updated_as_ever() -> None:
    wide = nn.Parameter(torch.ones(3))
    narrow = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = StochasticRounding(torch.optim.SGD([wide, narrow], lr=1e-3))
    wide.grad, narrow.grad = torch.ones(3), torch.ones(3, dtype=torch.bfloat16)
    optimizer.step()
    assert torch.equal(wide.data, torch.full((3,), 1 - 1e-3))
    assert narrow.grad is not None and narrow.grad.dtype is torch.bfloat16


def test_other_weights_are_refused() -> None:
    with pytest.raises(RecipeError, match="got float16"):
        StochasticRounding(torch.optim.SGD(net(torch.float16).parameters()))
    with pytest.raises(NoEffectError, match="No weight is bfloat16"):
        StochasticRounding(torch.optim.SGD(net().parameters()))


# --- torchao's optimisers -----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4, "fp8"])
def test_a_low_bit_state_resumes_bit_for_bit_from_a_checkpoint(
    bits: int | str, tmp_path: Path
) -> None:
    whole = net()
    optimizer = low_bit_adamw(whole.parameters(), bits)
    steps(whole, optimizer, range(3))
    json.dumps([v for s in optimizer.state_dict()["state"].values() for v in s.values()
                if not isinstance(v, Tensor)])  # fmt: skip
    save_checkpoint(tmp_path, whole, optimizer, {"epoch": 1})
    for group in optimizer.param_groups:
        group["lr"] = 5e-4  # a plain float, as schedules write it
    steps(whole, optimizer, range(3, 5))
    again = net()
    resumed = low_bit_adamw(again.parameters(), bits)
    load_checkpoint(tmp_path, again, resumed)
    for group in resumed.param_groups:
        group["lr"] = 5e-4
    steps(again, resumed, range(3, 5))
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bytes_of_the_states() -> None:
    def taken(optimizer: torch.optim.Optimizer, model: nn.Module) -> int:
        steps(model, optimizer, range(1))
        return state_bytes(optimizer)

    models = [net() for _ in range(4)]
    plain = taken(torch.optim.AdamW(models[0].parameters()), models[0])
    values = 2 * 2 * 64 * 256  # two moments of two matrices
    small = 2 * 4 * (256 + 64) + 4 * 4  # biases stay float32, and a step each
    assert plain == 4 * values + small
    found = {
        bits: taken(low_bit_adamw(model.parameters(), bits), model)
        for bits, model in zip((8, 4, "fp8"), models[1:], strict=True)
    }
    assert found[8] == found["fp8"] == values + 4 * values // 256 + small
    assert found[4] == values // 2 + 4 * values // 128 + small
    large = 4 * values / (values + 4 * values / 256)
    assert 1 / large <= 0.27


def test_bad_states_are_refused() -> None:
    with pytest.raises(RecipeError, match="bits=8, 4 or 'fp8', got 16"):
        low_bit_adamw(net().parameters(), 16)
    model = net()
    optimizer = low_bit_adamw(model.parameters(), 8)
    steps(model, optimizer, range(1))
    state = optimizer.state_dict()
    state["state"][0]["exp_avg:about"] = ["Other"]
    with pytest.raises(ArtifactError, match="'Other'"):
        optimizer.load_state_dict(state)


# --- learned steps ------------------------------------------------------------------------------


def test_lsq_gradients_are_those_of_the_paper() -> None:
    weight = torch.tensor([0.3, -5.0, 1.2, 9.0])
    quantiser = LearnedStep(weight, 3)  # -4 .. 3
    quantiser.step.data = torch.tensor(1.0)
    w = weight.clone().requires_grad_()
    made = quantiser(w)
    assert made.tolist() == [0.0, -4.0, 1.0, 3.0]
    made.sum().backward()
    assert w.grad.tolist() == [1.0, 0.0, 1.0, 0.0]
    by_value = [-0.3 + 0.0, -4.0, -1.2 + 1.0, 3.0]  # equation 3
    assert float(quantiser.step.grad) == pytest.approx(sum(by_value) / (4 * 3) ** 0.5)
    assert float(LearnedStep(weight, 3).step.detach()) == pytest.approx(2 * 3.875 / 3**0.5)


def test_steps_train_and_are_baked() -> None:
    model = net()
    assert learn_steps_(model, 2) == ("0", "2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = [p.item() for n, p in model.named_parameters() if n.endswith("step")]
    steps(model, optimizer, range(3))
    after = [p.item() for n, p in model.named_parameters() if n.endswith("step")]
    assert len(before) == 2 and before != after
    inputs = normal(4, 64)
    wanted = model(inputs)
    assert bake_steps_(model) == ("0", "2")
    assert torch.equal(model(inputs), wanted)
    assert sorted(model.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert len(model[0].weight.unique()) <= 4


def test_bad_steps_are_refused() -> None:
    with pytest.raises(RecipeError, match="2 to 8 bits"):
        learn_steps_(net(), 1)
    with pytest.raises(NoEffectError, match="other targets"):
        learn_steps_(nn.Sequential(nn.ReLU()))
    with pytest.raises(NoEffectError, match="learn_steps_"):
        bake_steps_(net())


# --- sent gradients -----------------------------------------------------------------------------


@pytest.mark.parametrize("compressor", [sign_gradient, top_k_gradient(0.1), quantize_gradient(4)])
def test_what_was_sent_and_the_rest_sum_to_what_came_in(compressor: object) -> None:
    feedback = ErrorFeedback(compressor)
    given = [normal(100, seed=s).double() for s in range(20)]
    sent = sum(feedback("w", g) for g in given)
    torch.testing.assert_close(sent + feedback.residuals["w"], sum(given), atol=1e-12, rtol=0)


def test_top_k_sums_exactly() -> None:
    feedback = ErrorFeedback(top_k_gradient(0.25))
    given = [torch.randint(-8, 9, (64,), generator=torch.Generator().manual_seed(s)).float()
             for s in range(10)]  # fmt: skip
    sent = sum(feedback("w", g) for g in given)
    assert torch.equal(sent + feedback.residuals["w"], sum(given))


def test_qsgd_keeps_the_mean() -> None:
    compress = quantize_gradient(4, seed=1)
    gradient = normal(50)
    mean = torch.stack([compress(gradient) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, gradient, atol=0.12, rtol=0)
    assert torch.equal(compress(torch.zeros(3)), torch.zeros(3))


def test_feedback_resumes() -> None:
    first = ErrorFeedback(sign_gradient)
    first("w", normal(8))
    second = ErrorFeedback(sign_gradient)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first("w", normal(8, seed=1)), second("w", normal(8, seed=1)))


def test_feedback_sends_what_louder_values_drown() -> None:
    compress = top_k_gradient(0.5)
    feedback = ErrorFeedback(compress)
    given = [torch.tensor([10.0 * (-1) ** step, 1.0]) for step in range(100)]
    assert sum(compress(g) for g in given)[1] == 0
    assert sum(feedback("w", g) for g in given)[1] >= 80


def test_bad_compressors_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"lies in \(0, 1\]"):
        top_k_gradient(0)
    with pytest.raises(RecipeError, match="at least 1 level"):
        quantize_gradient(0)


# --- cyclic bits --------------------------------------------------------------------------------


def test_bits_rise_in_every_cycle() -> None:
    bits = [cyclic_bits(step, 80) for step in range(80)]
    assert bits[:10] == bits[70:] == sorted(bits[:10])
    assert min(bits) == 3 and max(bits) == 8


def test_the_schedule_sets_every_layer_and_resumes() -> None:
    model = net()
    prepare_low_precision_(model, "int8")
    schedule = PrecisionSchedule(model, total_steps=80)
    layers = [m for m in model.modules() if isinstance(m, LowPrecisionLinear)]
    assert schedule(9) == 8 and all(m.precision.weight.format == "int8" for m in layers)
    assert schedule(10) == 3 and all(m.precision.activation.format == "int3" for m in layers)
    assert all(m.precision.gradient.format == "int8" for m in layers)
    schedule(37)
    again = PrecisionSchedule(model, total_steps=80)
    again.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    assert layers[0].precision.weight.format == f"int{cyclic_bits(37, 80)}"
    with pytest.raises(ArtifactError, match="build it with the saved settings"):
        PrecisionSchedule(model, total_steps=81).load_state_dict(schedule.state_dict())


def test_bad_cycles_are_refused() -> None:
    with pytest.raises(RecipeError, match="2 <= low <= high <= 8"):
        cyclic_bits(0, 8, low=1)
    with pytest.raises(NoEffectError, match="prepare_low_precision_"):
        PrecisionSchedule(net(), total_steps=8)


def test_learned_steps_recover_a_fit() -> None:
    """Two bits after training fit worse than two bits in training."""
    inputs, wanted = normal(256, 64), normal(256, 64, seed=1)
    baked, trained = net(), net()
    learn_steps_(trained, 2)
    for model in (baked, trained):
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), wanted).backward()
            optimizer.step()
    learn_steps_(baked, 2)
    for model in (baked, trained):
        bake_steps_(model)
    assert F.mse_loss(trained(inputs), wanted) < 0.9 * F.mse_loss(baked(inputs), wanted)
