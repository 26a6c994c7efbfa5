"""CowClip around optimisers: trajectories against a transcription in NumPy, and what it keeps."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.core import RecipeError, TrainingError
from sartor.data.click_log import draw_click_log
from sartor.nn.deepfm import DeepFM
from sartor.train.cowclip.optimizer import CowClip, cowclip_adam
from sartor.train.cowclip.scaling import ScaledRates

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant")

BOTH = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
STEPS, BATCH, FIELDS, ROWS, DIM = 40, 16, 2, 25, 3
RATES = ScaledRates(lr_dense=2e-3, lr_embedding=1e-3, l2=1e-3)


# --- the card's figures through the whole step ---------------------------------------------------


@BOTH
@pytest.mark.parametrize(("r", "first"), [(1.0, 0.06), (0.5, 0.03)])
def test_the_cards_figures_and_thirty_steps_after(r: float, first: float, sparse: bool) -> None:
    """The card's table, gradient and counts under plain SGD, held against the formula."""
    weight = [[0.03, 0.04], [0.0, 0.0], [0.6, 0.8], [0.003, 0.004]]
    grad = np.array([[0.3, 0.4], [0.06, 0.08], [0.3, 0.4], [0.0, 0.0]])
    counts = np.array([2, 1, 3, 1])
    ids = torch.arange(4).repeat_interleave(torch.tensor(counts))
    table = nn.Embedding.from_pretrained(
        torch.tensor(weight, dtype=torch.float64), freeze=False, sparse=sparse
    )
    zeta = 0.01 / (r * math.sqrt(2))  # so that the bound on the norm is 0.01
    optimizer = CowClip(torch.optim.SGD(table.parameters(), lr=0.1), table, r=r, zeta=zeta)
    per_occurrence = torch.tensor(grad / counts[:, None])
    expected = np.array(weight)
    for step in range(31):
        (table(ids) * per_occurrence[ids]).sum().backward()
        optimizer.step()
        norm = np.linalg.norm(grad, axis=1)
        limit = r * counts * np.maximum(np.linalg.norm(expected, axis=1), 0.01)
        clipped = grad * (limit / np.maximum(norm, limit))[:, None]
        if step == 0:
            card = [[first, first * 4 / 3], [first / 10, first * 4 / 30], [0.3, 0.4], [0, 0]]
            np.testing.assert_allclose(clipped, card, atol=1e-12)
            np.testing.assert_allclose(table.weight.grad.to_dense(), card, atol=1e-12)
        expected = expected - 0.1 * clipped
        optimizer.zero_grad()
    np.testing.assert_allclose(table.weight.detach(), expected, atol=1e-12)
    assert abs(expected - np.array(weight)).max() > 0.5  # it went somewhere


# --- a whole model, Adam, penalty and warm dense weights -----------------------------------------


class Model(nn.Module):
    """logit = sum over fields of <E[id], u> + a[id]."""

    def __init__(self, start: dict[str, np.ndarray], dtype: torch.dtype, sparse: bool) -> None:
        super().__init__()
        tables = {k: torch.tensor(start[k], dtype=dtype) for k in ("e", "a")}
        self.e = nn.Embedding.from_pretrained(tables["e"], freeze=False, sparse=sparse)
        self.a = nn.Embedding.from_pretrained(tables["a"], freeze=False, sparse=sparse)
        self.u = nn.Parameter(torch.tensor(start["u"], dtype=dtype))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return (self.e(ids) @ self.u).sum(1) + self.a(ids).sum((1, 2))


def beginning() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    start = {
        "e": random.normal(0, 1e-2, (ROWS, DIM)),
        "a": random.normal(0, 1e-2, (ROWS, 1)),
        "u": random.normal(0, 1, DIM),
    }
    ids = np.minimum(random.zipf(1.3, (STEPS, BATCH, FIELDS)) - 1, ROWS - 1)
    clicks = random.integers(0, 2, (STEPS, BATCH)).astype(float)
    return start, ids, clicks


def transcription(r: float, zeta: float) -> tuple[dict[str, np.ndarray], int]:
    """Every step by hand: gradients, penalty, clip of each row, Adam; how often a row was cut."""
    now, all_ids, all_clicks = beginning()
    first, second = ({k: np.zeros_like(v) for k, v in now.items()} for _ in range(2))
    lr = {"e": RATES.lr_embedding, "a": RATES.lr_embedding, "u": RATES.lr_dense}
    cuts = 0
    for step, (ids, clicks) in enumerate(zip(all_ids, all_clicks, strict=True), 1):
        grads = {k: np.zeros_like(v) for k, v in now.items()}
        for row, click in zip(ids, clicks, strict=True):
            logit = sum(now["e"][i] @ now["u"] + now["a"][i, 0] for i in row)
            slope = (1 / (1 + math.exp(-logit)) - click) / BATCH
            for i in row:
                grads["e"][i] += slope * now["u"]
                grads["a"][i, 0] += slope
                grads["u"] += slope * now["e"][i]
        for name in ("e", "a"):
            grads[name] += 2 * RATES.l2 * now[name]
        for i in range(ROWS):
            count = max(int((ids == i).sum()), 1)
            bound = r * math.sqrt(DIM) * zeta
            limit = r * count * max(math.sqrt((now["e"][i] ** 2).sum()), bound)
            norm = math.sqrt((grads["e"][i] ** 2).sum())
            cuts += norm > limit
            grads["e"][i] *= limit / max(norm, limit)
        for k in now:
            first[k] = 0.9 * first[k] + 0.1 * grads[k]
            second[k] = 0.999 * second[k] + 0.001 * grads[k] ** 2
            mean, square = first[k] / (1 - 0.9**step), second[k] / (1 - 0.999**step)
            now[k] = now[k] - lr[k] * mean / (np.sqrt(square) + 1e-8)
    return now, cuts


@BOTH
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize(("r", "zeta"), [(1.0, 1e-5), (0.4, 1e-2)])
def test_forty_steps_equal_the_transcription(r, zeta, dtype, bound, sparse) -> None:
    start, ids, clicks = beginning()
    model = Model(start, dtype, sparse)
    optimizer = cowclip_adam(model, RATES, r=r, zeta=zeta)
    for views, wanted in zip(torch.tensor(ids), torch.tensor(clicks, dtype=dtype), strict=True):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(views), wanted).backward()
        optimizer.step()
    expected, cuts = transcription(r, zeta)
    assert cuts > 50 and 0 < optimizer.clipped_share < 1
    for name, found in (("e", model.e.weight), ("a", model.a.weight), ("u", model.u)):
        np.testing.assert_allclose(found.detach(), expected[name], rtol=0, atol=bound)
        assert abs(expected[name] - start[name]).max() > 0.005


def test_without_clip_or_penalty_it_is_the_wrapped_optimiser() -> None:
    def trained(wrap: bool) -> torch.Tensor:
        start, ids, clicks = beginning()
        model = Model(start, torch.float32, sparse=False)
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        if wrap:
            optimizer = CowClip(optimizer, model, r=1e9)
        run(model, optimizer, torch.tensor(ids), torch.tensor(clicks))
        return model.e.weight

    assert torch.equal(trained(True), trained(False))


def run(model, optimizer, ids, clicks, micro: int = 1) -> None:
    for views, wanted in zip(ids, clicks.float(), strict=True):
        for part, target in zip(views.chunk(micro), wanted.chunk(micro), strict=True):
            (F.binary_cross_entropy_with_logits(model(part), target) / micro).backward()
        optimizer.step()
        optimizer.zero_grad()


def small(sparse: bool = False) -> DeepFM:
    torch.manual_seed(0)
    return DeepFM((30, 12, 5), embed_dim=4, hidden=(8,), sparse=sparse).double()


def small_batches(steps: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    log = draw_click_log(32 * steps, cardinalities=(30, 12, 5), seed=1)
    return log.ids.view(steps, 32, 3), log.clicks.view(steps, 32)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_micro_batches_equal_the_whole_batch(sparse: bool) -> None:
    ids, clicks = small_batches()
    models = [small(sparse) for _ in range(2)]
    for model, micro in zip(models, (1, 4), strict=True):
        optimizer = cowclip_adam(model, RATES, r=0.02)
        for views, wanted in zip(ids, clicks.double(), strict=True):
            for part, target in zip(views.chunk(micro), wanted.chunk(micro), strict=True):
                (F.binary_cross_entropy_with_logits(model(part), target) / micro).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert optimizer.clipped_share > 0.01
    for first, second in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.SparseAdam])
def test_without_penalty_sparse_gradients_stay_sparse(make: type[torch.optim.Optimizer]) -> None:
    ids, clicks = small_batches(1)
    sparse, dense = small(sparse=True), small()
    for model, kind in ((sparse, make), (dense, torch.optim.SGD)):
        tables = [model.embedding.weight, model.linear.weight]
        optimizer = CowClip(kind(tables, lr=1e-2), model, r=0.02)
        F.binary_cross_entropy_with_logits(model(ids[0]), clicks[0].double()).backward()
        optimizer.step()
        assert 0 < optimizer.clipped_share < 1
    grad = sparse.embedding.weight.grad
    assert grad.is_sparse
    torch.testing.assert_close(grad.to_dense(), dense.embedding.weight.grad, rtol=1e-12, atol=0)


def test_a_table_that_no_input_used_decays_and_padding_does_not() -> None:
    used, unused = nn.Embedding(4, 2, padding_idx=1), nn.Embedding(3, 2)
    with torch.no_grad():
        used.weight[1] = 7.0
    before = unused.weight.detach().clone()
    optimizer = CowClip(
        torch.optim.SGD([used.weight, unused.weight], lr=0.1), [used, unused], l2=0.01
    )
    used(torch.tensor([0, 1, 2])).sum().backward()
    optimizer.step()
    assert torch.equal(used.weight[1], torch.full((2,), 7.0))
    torch.testing.assert_close(unused.weight, before * (1 - 0.1 * 2 * 0.01))


def test_tables_of_width_one_are_penalised_alone() -> None:
    table = nn.Embedding(3, 1)
    before = table.weight.detach().clone()
    optimizer = CowClip(torch.optim.SGD(table.parameters(), lr=1.0), table, r=0.1, l2=0.05)
    (1e3 * table(torch.tensor([1]))).sum().backward()
    optimizer.step()
    wanted = 0.9 * before - torch.tensor([[0.0], [1e3], [0.0]])
    torch.testing.assert_close(table.weight.detach(), wanted)
    assert optimizer.clipped_share == 0.0


# --- state, schedules, scalers -------------------------------------------------------------------


@BOTH
def test_a_resumed_run_is_the_same_run(sparse: bool) -> None:
    ids, clicks = small_batches()
    whole, half, rest = small(sparse), small(sparse), small(sparse)

    def steps(model, optimizer, part: slice) -> None:
        for views, wanted in zip(ids[part], clicks[part].double(), strict=True):
            F.binary_cross_entropy_with_logits(model(views), wanted).backward()
            optimizer.step()
            optimizer.zero_grad()

    steps(whole, cowclip_adam(whole, RATES), slice(None))
    optimizer = cowclip_adam(half, RATES)
    steps(half, optimizer, slice(0, 9))
    rest.load_state_dict(half.state_dict())
    resumed = cowclip_adam(rest, RATES)
    resumed.load_state_dict(optimizer.state_dict())
    steps(rest, resumed, slice(9, None))
    for first, second in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(first, second)


def test_groups_and_state_are_the_wrapped_ones_also_after_loading() -> None:
    model = small()
    optimizer = cowclip_adam(model, RATES)
    inner = optimizer.optimizer
    for _ in range(2):
        assert optimizer.param_groups is inner.param_groups and optimizer.state is inner.state
        inner.load_state_dict(inner.state_dict())
    optimizer.param_groups[1]["lr"] = 0.5
    assert inner.param_groups[1]["lr"] == 0.5
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 1.0, lambda step: step / 4])
    ids, clicks = small_batches(1)
    F.binary_cross_entropy_with_logits(model(ids[0]), clicks[0].double()).backward()
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in inner.param_groups] == [RATES.lr_embedding, 0.125]
    plain = torch.optim.Adam([dict(group) for group in inner.param_groups])
    plain.load_state_dict(optimizer.state_dict())  # a checkpoint serves both
    assert "CowClip(r=1" in repr(optimizer) and "Adam" in repr(optimizer)


def test_a_gradient_scaler_unscales_before_the_clip() -> None:
    ids, clicks = small_batches()
    plain, scaled = small().float(), small().float()
    run(plain, cowclip_adam(plain, RATES, r=0.02), ids, clicks)
    optimizer = cowclip_adam(scaled, RATES, r=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for views, wanted in zip(ids, clicks, strict=True):
        scaler.scale(F.binary_cross_entropy_with_logits(scaled(views), wanted)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    for first, second in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_a_skipped_step_leaves_no_counts() -> None:
    table = nn.Embedding(3, 2)
    optimizer = CowClip(torch.optim.SGD(table.parameters(), lr=1.0), table)
    table(torch.tensor([0, 0, 0])).sum().backward()
    optimizer.zero_grad()  # as after an overflow
    table(torch.tensor([0])).sum().backward()
    optimizer.step()
    assert table.weight.grad[0].norm() <= (table.weight[0] + table.weight.grad[0]).norm() * (
        1 + 1e-6
    )


def test_closures() -> None:
    table = nn.Embedding(3, 2)
    optimizer = CowClip(torch.optim.SGD(table.parameters(), lr=1.0), table)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = table(torch.tensor([0])).square().sum()
        loss.backward()
        return loss

    before = float(table.weight[0].detach().square().sum())
    assert optimizer.step(closure).item() == pytest.approx(before)
    assert table.weight[0].norm().item() < 1e-6  # 2 w clipped to the norm of w, and subtracted


# --- bad inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"r": 0.0}, "r above 0"),
        ({"zeta": -1.0}, "bound of at least 0"),
        ({"l2": -1e-9}, "must lie in 0..r / 2 = 0.5"),
        ({"r": 0.1, "l2": 0.06}, "must lie in 0..r / 2 = 0.05"),
    ],
)
def test_refuses_numbers(words: dict, message: str) -> None:
    table = nn.Embedding(3, 2)
    with pytest.raises(RecipeError, match=message):
        CowClip(torch.optim.SGD(table.parameters(), lr=1.0), table, **words)


@pytest.mark.parametrize("words", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_refuses_tables_with_rules_of_their_own(words: dict) -> None:
    table = nn.Embedding(3, 2, **words)
    with pytest.raises(RecipeError, match="rule of its own"):
        CowClip(torch.optim.SGD(table.parameters(), lr=1.0), table)


def test_refuses_what_is_no_table_of_the_optimiser() -> None:
    table, linear = nn.Embedding(3, 2), nn.Linear(2, 2)
    of_linear = torch.optim.SGD(linear.parameters(), lr=1.0)
    with pytest.raises(RecipeError, match=r"Embedding\(3, 2\) is not trained by the optimiser"):
        CowClip(of_linear, table)
    with pytest.raises(RecipeError, match="got Linear"):
        CowClip(of_linear, linear)
    with pytest.raises(RecipeError, match="got Embedding, Linear"):
        CowClip(of_linear, [table, linear])
    with pytest.raises(RecipeError, match="got none"):
        CowClip(of_linear, [])
    table.weight.requires_grad_(False)
    assert CowClip(of_linear, table)  # frozen tables need no optimiser


def test_refuses_two_penalties_and_half_a_penalty() -> None:
    table = nn.Embedding(3, 2)
    with pytest.raises(RecipeError, match=r"weight_decay 0\.01, which comes after the clip"):
        CowClip(torch.optim.AdamW(table.parameters()), table)
    sparse = nn.Embedding(3, 2, sparse=True)
    with pytest.raises(RecipeError, match="SparseAdam moves rows of the batch alone"):
        CowClip(torch.optim.SparseAdam(sparse.parameters()), sparse, l2=1e-5)


def test_refuses_a_step_without_ids() -> None:
    table = nn.Embedding(3, 2)
    optimizer = CowClip(torch.optim.SGD(table.parameters(), lr=1.0), table)
    F.embedding(torch.tensor([0]), table.weight).sum().backward()
    with pytest.raises(TrainingError, match="none of the embeddings was called"):
        optimizer.step()
