"""What a plan repeats, when repetition hurts, and the mixture that stands in for a dense model."""

import copy
import json
import math

import pytest
import torch
from torch import nn

from sartor.core import (
    DataError,
    FamilyError,
    NoEffectError,
    RecipeError,
    TrainingError,
)
from sartor.nn import tiny_vit
from sartor.train import (
    OverfitMonitor,
    OverfitReport,
    Top1Experts,
    balance_loss,
    data_budget_report,
    moe_proxy,
    repetition_sweep,
    sweep_dropout,
)


def test_the_papers_closing_example() -> None:
    plan = data_budget_report(2_800_000_000, 2**27, 2**35)
    assert plan.epochs == 256.0
    assert plan.tokens_per_param == pytest.approx(0.047935, abs=5e-7)
    assert plan.compute_optimal_tokens == 5.6e10
    assert plan.repetition_ratio == pytest.approx(417.23, abs=5e-3)
    assert plan.dropout_rates == (0.1, 0.2) and plan.dropout_start == 0.5
    assert "256 epochs" in plan.advice and "50%" in plan.advice


def test_other_figures_of_the_card() -> None:
    assert data_budget_report(784e6, 2**29, 2**35).epochs == 64
    seen = 800 * 16 * 64
    plan = data_budget_report(108_352, 12_000, seen, context_length=64)
    assert plan.epochs == pytest.approx(68.267, abs=5e-4)


def test_up_to_four_epochs_need_no_dropout() -> None:
    plan = data_budget_report(1000, 1000, 4000)
    assert plan.dropout_rates == () and plan.dropout_start == 1.0
    assert data_budget_report(1000, 1000, 4001).dropout_rates


def test_a_plan_that_repeats_nothing_warns() -> None:
    with pytest.warns(UserWarning, match="nothing repeats"):
        assert data_budget_report(10, 1000, 999).epochs == 0.999


@pytest.mark.parametrize("numbers", [(0, 10, 10), (1, 0, 10), (1, 10, -1), (1, math.nan, 1)])
def test_bad_plans_are_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(RecipeError, match="positive and finite"):
        data_budget_report(*numbers)


def test_data_shorter_than_a_context_are_refused() -> None:
    with pytest.raises(DataError, match="64 unique tokens do not fill more than one input of 64"):
        data_budget_report(10, 64, 1000, context_length=64)


def followed(losses: list[float], **settings: float) -> tuple[list[bool], OverfitMonitor]:
    monitor = OverfitMonitor(**settings)
    return [monitor.update(10 * i, loss) for i, loss in enumerate(losses)], monitor


def test_d_and_g_by_hand() -> None:
    _, monitor = followed([3.0, 2.0, 2.5], window=2)
    assert math.isnan(monitor.report().gap)
    for loss in (9.0, 1.0, 2.0):
        monitor.observe(loss)
    report = monitor.report()
    assert (report.best_step, report.best_loss, report.last_loss) == (10, 2.0, 2.5)
    assert (report.degradation, report.gap) == (0.5, 1.0)
    assert report.useful_epochs(1024, 1280) == 8.0


def test_patience_counts_what_is_not_better_enough() -> None:
    assert followed([3.0, 2.0, 1.95, 1.93], patience=2, min_delta=0.1)[0] == [False] * 3 + [True]
    assert followed([3.0, 2.0, 2.1, 1.5, 1.6], patience=2)[0] == [False] * 5


def test_a_restored_monitor_goes_on_the_same() -> None:
    losses = [3.0, 2.0, 2.1, 2.2, 2.3]
    whole, first = followed(losses, patience=3)[0], followed(losses[:3], patience=3)[1]
    first.observe(1.5)
    second = OverfitMonitor(patience=3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.update(10 * i, losses[i]) for i in (3, 4)] == whole[3:]
    assert second.report().gap == pytest.approx(0.8)


def test_bad_validations_are_refused() -> None:
    with pytest.raises(TrainingError, match="nothing to report"):
        OverfitMonitor().report()
    _, monitor = followed([1.0])
    for step, loss in ((0, 1.0), (1, math.nan)):
        with pytest.raises(TrainingError, match="finite losses at rising steps"):
            monitor.update(step, loss)
    for settings in ({"patience": 0}, {"min_delta": -1.0}, {"window": 0}):
        with pytest.raises(RecipeError, match="patience >= 1"):
            OverfitMonitor(**settings)


def test_the_sweep_finds_where_data_are_too_few() -> None:
    asked = []

    def train_fn(subset: torch.Tensor, seed: int) -> OverfitReport:
        asked.append((len(subset), seed))
        rise = 20 / len(subset)
        return OverfitReport(
            best_step=1, best_loss=2.0, last_loss=2 + rise + seed, degradation=rise, gap=0.0
        )

    rows = repetition_sweep(train_fn, torch.arange(1000), fractions=(0.05, 1, 0.25), seeds=(0, 1))
    assert asked == [(1000, 0), (1000, 1), (250, 0), (250, 1), (50, 0), (50, 1)]
    assert [row.hurts for row in rows] == [False, True, True]
    assert [round(row.last_loss, 6) for row in rows] == [2.52, 2.58, 2.9]
    assert [round(row.cost, 6) for row in rows] == [0.0, 0.06, 0.38]


@pytest.mark.parametrize(
    "asked", [{"fractions": ()}, {"fractions": (1, 1)}, {"fractions": (0,)}, {"seeds": ()}]
)
def test_bad_sweeps_are_refused(asked: dict) -> None:
    with pytest.raises(RecipeError, match=r"different fractions in \(0, 1\]"):
        repetition_sweep(lambda data, seed: None, [1, 2], **asked)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="of 10 items is none"):
        repetition_sweep(lambda data, seed: None, range(10), fractions=(1, 0.01))


def test_one_expert_equals_the_dense_model() -> None:
    model = tiny_vit(embed_dim=16, depth=2).eval()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    proxy = moe_proxy(model, 1)
    assert sum(isinstance(m, Top1Experts) for m in proxy.modules()) == 2
    assert torch.equal(proxy(images), model(images))
    assert balance_loss(proxy).item() == 1.0


def test_experts_are_the_parts_of_the_dense_layer() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(16, 128), nn.GELU(), nn.Linear(128, 16)))
    before = copy.deepcopy(model.state_dict())
    experts = moe_proxy(model, 4)[0]
    inputs = torch.randn(5, 7, 16)
    gate = experts.gate(inputs).softmax(-1)
    mixed = experts(inputs)
    for row, column in ((0, 0), (2, 3), (4, 6)):
        token, e = inputs[row, column], int(gate[row, column].argmax())
        hidden = nn.functional.gelu(model[0][0](token))
        kept = torch.zeros(128)
        kept[32 * e : 32 * e + 32] = hidden[32 * e : 32 * e + 32]
        wanted = gate[row, column, e] * model[0][2](kept)
        torch.testing.assert_close(mixed[row, column], wanted)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_the_proxy_has_the_parameters_and_trains_the_gate() -> None:
    model = tiny_vit(embed_dim=32, depth=2)
    proxy = moe_proxy(model, 4)
    dense, sparse = (sum(p.numel() for p in m.parameters()) for m in (model, proxy))
    assert abs(sparse - dense) <= 0.05 * dense
    (proxy(torch.randn(8, 1, 8, 8)).sum() + balance_loss(proxy)).backward()
    gates = [m.gate.weight.grad for m in proxy.modules() if isinstance(m, Top1Experts)]
    assert all(g is not None and g.abs().sum() > 0 for g in gates)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(copy.deepcopy(proxy).eval()(images), proxy.eval()(images))


def test_bad_proxies_are_refused() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)))
    with pytest.raises(RecipeError, match="at least 1 expert"):
        moe_proxy(model, 0)
    with pytest.raises(RecipeError, match="32 hidden units, which 3 experts do not divide"):
        moe_proxy(model, 3)
    with pytest.raises(NoEffectError, match="exactly two"):
        moe_proxy(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(NoEffectError, match="No feed-forward layer"):
        moe_proxy(model, 2, targets=["elsewhere"])
    with pytest.raises(FamilyError, match="more than 5% apart"):
        moe_proxy(model, 32)
    with pytest.raises(NoEffectError, match="no Top1Experts"):
        balance_loss(model)


def test_the_sweep_orders_rates_by_loss() -> None:
    assert list(sweep_dropout(lambda rate: abs(rate - 0.2), [0.0, 0.1, 0.2])) == [0.2, 0.1, 0.0]
    for rates in ([], [0.1, 0.1], [1.0], [-0.1]):
        with pytest.raises(RecipeError, match=r"different rates in \[0, 1\)"):
            sweep_dropout(lambda rate: 0.0, rates)
