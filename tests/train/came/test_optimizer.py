"""CAME against the figures of its card, against the formulas of the paper in double precision, and
its three ways of working against one another.
"""

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from sartor.core.errors import RecipeError, TrainingError
from sartor.train import CAME
from sartor.train.came.batch import chunks
from sartor.train.came.update import CAMESettings, came_vector_, factored_shape

WEIGHTS = [[0.5, -0.25, 1.0], [0.1, 0.2, -0.3]]
BIAS = [0.0, 1.0, -1.0]
GRADIENTS = (
    ([[1, 2, 3], [-1, 0.5, 0.25]], [1, -1, 0.5]),
    ([[0.5, -1, 2], [1, 1, -1]], [2, 0, -0.5]),
    ([[0, 1, 0], [0, -2, 0.5]], [-1, 1, 1]),
)
#: of the released code in single precision: weights and bias after each step
FIGURES = (
    (
        [[-0.106744, -1.855294, -0.999685], [1.358606, -0.632490, -0.645673]],
        [-0.010000, 1.010000, -1.010000],
    ),
    (
        [[-0.903615, -2.083750, -3.616067], [1.390872, -1.980642, -0.098414]],
        [-0.032587, 1.019000, -1.008257],
    ),
    (
        [[-1.717923, -2.864617, -6.078856], [1.419026, -1.722518, -0.069355]],
        [-0.046790, 1.016492, -1.018935],
    ),
)
DECAYED = [[-0.111744, -1.852793, -1.009685], [1.357606, -0.634490, -0.642673]]
#: of the released code over 60 steps
TRAJECTORIES = json.loads(Path(__file__).with_name("trajectories.json").read_text())["steps"]
SHAPES = {"matrix": (4, 6), "wide": (2, 9), "stack": (2, 3, 4), "vector": (6,), "number": ()}
WAYS = (
    pytest.param({"foreach": False}, id="each"),
    pytest.param({"foreach": True}, id="foreach"),
    pytest.param({"fused": True}, id="fused", marks=pytest.mark.slow),
)


def close(given, wanted, tolerance=1e-6):
    torch.testing.assert_close(given, wanted, rtol=0, atol=tolerance)


def parameters(dtype=torch.float32):
    return [nn.Parameter(torch.tensor(values, dtype=dtype)) for values in (WEIGHTS, BIAS)]


@pytest.mark.parametrize("way", WAYS)
def test_the_figures_of_the_released_code(way):
    weights, bias = parameters()
    optimizer = CAME([weights, bias], lr=0.1, **way)
    for gradients, figures in zip(GRADIENTS, FIGURES, strict=True):
        weights.grad, bias.grad = (torch.tensor(g, dtype=torch.float32) for g in gradients)
        optimizer.step()
        close(weights.data, torch.tensor(figures[0]))
        close(bias.data, torch.tensor(figures[1]))


@pytest.mark.parametrize("way", WAYS)
def test_weight_decay_comes_first(way):
    weights, _ = parameters()
    weights.grad = torch.tensor(GRADIENTS[0][0], dtype=torch.float32)
    CAME([weights], lr=0.1, weight_decay=0.1, **way).step()
    close(weights.data, torch.tensor(DECAYED))


def test_the_first_step_of_a_constant_gradient():
    matrix, vector = nn.Parameter(torch.zeros(5, 7)), nn.Parameter(torch.zeros(7))
    matrix.grad, vector.grad = torch.ones(5, 7), torch.ones(7)
    CAME([matrix, vector], lr=1e-3).step()
    wanted = 0.1 / (0.9 * math.sqrt(1 - 0.9999))
    assert wanted == pytest.approx(11.1111, abs=1e-4)
    close(matrix.data, torch.full((5, 7), -1e-3 * wanted))
    close(vector.data, torch.full((7,), -1e-4))


# --- over tens of steps -------------------------------------------------------------------------


def start(shape, dtype):
    count = torch.arange(math.prod(shape), dtype=torch.float64)
    return nn.Parameter((0.5 * count.cos()).reshape(shape).to(dtype))


def wave(shape, step, dtype):
    """Gradients that never repeat, without a random generator."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    values = (1.7 * i * i + 0.9 * step * (i + 1) + 0.3 * step * step).sin()
    return (values * (1 + 0.5 * (i + step).cos())).reshape(shape).to(dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-11)], ids=str
)
def test_sixty_steps_of_the_released_code(way, dtype, tolerance):
    params = {name: start(shape, dtype) for name, shape in SHAPES.items()}
    optimizer = CAME(params.values(), lr=1e-2, betas=(0.9, 0.99, 0.999), weight_decay=0.05, **way)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (step + 1) / 20)
        for name, param in params.items():
            param.grad = wave(SHAPES[name], step, dtype)
        optimizer.step()
        for name, figures in TRAJECTORIES.get(str(step + 1), {}).items():
            close(params[name].data.flatten(), torch.tensor(figures, dtype=dtype), tolerance)


def test_the_papers_sums_give_what_the_codes_means_give():
    """Algorithm 2 of the paper, line by line, in double precision."""
    (n, m), lr = (5, 4), 1e-2
    b1, b2, b3 = betas = (0.9, 0.99, 0.999)
    param = start((n, m), torch.float64)
    weights = param.data.clone()
    momentum = torch.zeros(n, m, dtype=torch.float64)
    r, c, res_r, res_c = (torch.zeros(k, 1, dtype=torch.float64) for k in (n, m, n, m))
    rows, columns = torch.ones(n, 1, dtype=torch.float64), torch.ones(m, 1, dtype=torch.float64)
    optimizer = CAME([param], lr=lr, betas=betas)
    for step in range(5):
        gradient = wave((n, m), step, torch.float64)
        param.grad = gradient
        optimizer.step()
        square = gradient**2 + 1e-30
        r = b2 * r + (1 - b2) * square @ columns
        c = b2 * c + (1 - b2) * square.T @ rows
        update = gradient / (r @ c.T / r.sum()).sqrt()
        update = update / max(1.0, float(update.norm()) / math.sqrt(n * m))
        momentum = b1 * momentum + (1 - b1) * update
        instability = (update - momentum) ** 2 + 1e-16
        res_r = b3 * res_r + (1 - b3) * instability @ columns
        res_c = b3 * res_c + (1 - b3) * instability.T @ rows
        weights = weights - lr * momentum / (res_r @ res_c.T / res_r.sum()).sqrt()
        close(param.data, weights, 1e-12)


# --- what it does with tensors of other kinds ---------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "factor_conv", "wanted"),
    [
        ((), True, ()),
        ((7,), True, ()),
        ((3, 7), True, (3, 7)),
        ((2, 3, 7), True, (2, 3, 7)),
        ((8, 4, 3, 3), True, (8, 36)),
        ((8, 4, 3, 3), False, (8, 4, 3, 3)),
        ((8, 1, 3, 3), True, (8, 9)),
        ((8, 4, 2, 3, 3), True, (8, 72)),
        ((1, 4, 3, 3), True, (1, 4, 3, 3)),
    ],
)
def test_what_is_factored(shape, factor_conv, wanted):
    assert factored_shape(shape, factor_conv=factor_conv) == wanted


@pytest.mark.parametrize("way", WAYS)
def test_a_kernel_is_a_matrix(way):
    kernel, matrix = start((4, 3, 2, 2), torch.float32), start((4, 12), torch.float32)
    for step in range(5):
        kernel.grad, matrix.grad = (wave(p.shape, step, torch.float32) for p in (kernel, matrix))
        if not step:
            optimizer = CAME([kernel, matrix], lr=1e-2, **way)
        optimizer.step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_the_layout_in_memory_does_not_matter():
    plain = start((4, 3, 2, 2), torch.float32)
    channels_last = nn.Parameter(plain.data.clone(memory_format=torch.channels_last))
    turned = nn.Parameter(plain.data.flatten(1).t().contiguous().t())
    assert not channels_last.is_contiguous() and not turned.is_contiguous()
    optimizer = CAME([plain, channels_last, turned], lr=1e-2)
    for step in range(5):
        gradient = wave(plain.shape, step, torch.float32)
        plain.grad, turned.grad = gradient, gradient.flatten(1)
        channels_last.grad = gradient.to(memory_format=torch.channels_last)
        optimizer.step()
    assert torch.equal(plain, channels_last) and torch.equal(plain.flatten(1), turned)
    assert not channels_last.is_contiguous()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_keeps_its_averages_in_single_precision(way, dtype):
    half = [start(shape, dtype) for shape in ((4, 6), (6,))]
    optimizer = CAME(half, lr=1e-2, **way)
    for step in range(4):
        # what single precision does from the same weights, rounded once, is asked
        single = [nn.Parameter(p.data.float()) for p in half]
        reference = CAME(single, lr=1e-2, **way)
        for mine, theirs in zip(half, single, strict=True):
            mine.grad = wave(mine.shape, step, dtype)
            theirs.grad = mine.grad.float()
            if step:
                reference.state[theirs] = {
                    key: value.clone() if isinstance(value, torch.Tensor) else value
                    for key, value in optimizer.state[mine].items()
                }
        optimizer.step()
        reference.step()
        for mine, theirs in zip(half, single, strict=True):
            assert torch.equal(mine, theirs.to(dtype))
            kept = [v for v in optimizer.state[mine].values() if isinstance(v, torch.Tensor)]
            assert {value.dtype for value in kept} == {torch.float32}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_moves_without_gradient(way):
    params = [start(shape, torch.float32) for shape in SHAPES.values()]
    params += [start((0, 3), torch.float32), start((2, 2), torch.float32)]
    before = [p.detach().clone() for p in params]
    optimizer = CAME(params, lr=1e-2, **way)
    for _ in range(3):
        for param in params[:-1]:
            param.grad = torch.zeros_like(param)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert params[-1] not in optimizer.state  # never had a gradient


def test_a_row_that_was_never_used_stays_finite():
    table = start((6, 4), torch.float32)
    optimizer = CAME([table], lr=1e-3)
    for step in range(8):
        table.grad = 1e4 * wave((6, 4), step, torch.float32)
        table.grad[3 if step < 5 else 0] = 0
        before = table[3].detach().clone()
        optimizer.step()
        assert table.isfinite().all()
        assert torch.equal(before, table[3]) == (step < 5)


def test_maximize_and_the_closure():
    down, up = start((4, 6), torch.float32), start((4, 6), torch.float32)
    optimizer = CAME([down], lr=1e-2)

    def closure():
        optimizer.zero_grad()
        loss = -(down * wave((4, 6), 0, torch.float32)).sum()
        loss.backward()
        return loss

    value = closure()
    assert optimizer.step(closure) == value and value.requires_grad
    up.grad = wave((4, 6), 0, torch.float32)
    CAME([up], lr=1e-2, maximize=True).step()
    assert torch.equal(down, up)


def test_groups_keep_their_settings():
    matrix, vector = start((4, 6), torch.float32), start((6,), torch.float32)
    alone = [start((4, 6), torch.float32), start((6,), torch.float32)]
    together = CAME(
        [{"params": [matrix], "weight_decay": 0.1}, {"params": [vector], "lr": 1e-3}], lr=1e-2
    )
    apart = [CAME(alone[:1], lr=1e-2, weight_decay=0.1), CAME(alone[1:], lr=1e-3)]
    for step in range(3):
        for param in (matrix, vector, *alone):
            param.grad = wave(param.shape, step, torch.float32)
        for optimizer in (together, *apart):
            optimizer.step()
    assert torch.equal(matrix, alone[0]) and torch.equal(vector, alone[1])


def test_chunks_hold_everything_once():
    assert list(chunks([], limit=5)) == []
    sizes = [4, 4, 9, 1, 2, 2]
    parts = [sizes[part] for part in chunks(sizes, limit=5)]
    assert parts == [[4], [4], [9], [1, 2, 2]]


def test_many_pieces_equal_one_by_one():
    shapes = [(300, 300), (10, 10), (250, 300), (64,), (10, 10), (64,)]
    lists, each = ([start(shape, torch.float32) for shape in shapes] for _ in range(2))
    optimizers = CAME(lists, lr=1e-3), CAME(each, lr=1e-3, foreach=False)
    for step in range(3):
        for params, optimizer in zip((lists, each), optimizers, strict=True):
            for param in params:
                param.grad = wave(param.shape, step, torch.float32)
            optimizer.step()
    for mine, theirs in zip(lists, each, strict=True):
        close(mine.data, theirs.data)


# --- the first steps ----------------------------------------------------------------------------


def test_warmup_safe_is_a_factor_of_the_rate_of_matrices():
    safe, plain = ([start(s, torch.float32) for s in ((4, 6), (6,))] for _ in range(2))
    corrected = CAME(safe, lr=1e-2, warmup_safe=True)
    optimizer = CAME([{"params": [p]} for p in plain], lr=1e-2)
    for step in range(8):
        factor = math.sqrt(1 - 0.9999 ** (step + 1))
        optimizer.param_groups[0]["lr"] = 1e-2 * factor
        for param in (*safe, *plain):
            param.grad = wave(param.shape, step, torch.float32)
        corrected.step()
        optimizer.step()
    for mine, theirs in zip(safe, plain, strict=True):
        close(mine.data, theirs.data)


def test_the_first_step_is_a_hundred_times_too_long():
    """The correction is 1 / sqrt(1 - beta3^t): 100 at the first step, 3.2 at the thousandth."""
    matrix = nn.Parameter(torch.zeros(5, 7))
    matrix.grad = torch.ones(5, 7)
    CAME([matrix], lr=1e-3, warmup_safe=True).step()
    close(matrix.data, torch.full((5, 7), -1e-3 * 0.1 / 0.9))
    assert 1 / math.sqrt(1 - 0.9999) == pytest.approx(100, abs=0.01)
    assert 1 / math.sqrt(1 - 0.9999**1000) == pytest.approx(3.2, abs=0.05)


def run_ten_steps(rates, **settings):
    param = start((4, 6), torch.float32)
    optimizer = CAME([param], lr=1e-3, **settings)
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        param.grad = wave((4, 6), step, torch.float32)
        optimizer.step()


def test_a_training_without_warmup_is_warned_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_ten_steps([1e-3] * 30)
    assert len(caught) == 1 and "warmup_safe=True" in str(caught[0].message)
    assert caught[0].filename == __file__
    run_ten_steps([1e-4 * step for step in range(12)])  # warnings are errors here
    run_ten_steps([1e-3] * 12, warmup_safe=True)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0.0}, "learning rate above 0, got 0.0"),
        ({"lr": -1e-3}, "learning rate above 0"),
        ({"lr": None}, "learning rate above 0, got None"),
        ({"lr": math.nan}, "learning rate above 0"),
        ({"betas": (0.9, 0.999)}, "betas are 3 numbers"),
        ({"betas": (0.9, 0.999, 1.0)}, r"in \[0, 1\)"),
        ({"betas": (-0.1, 0.999, 0.9999)}, "betas are 3 numbers"),
        ({"eps": (0.0, 1e-16)}, "eps are 2 numbers above 0"),
        ({"eps": 1e-8}, "eps are 2 numbers above 0"),
        ({"clip_threshold": 0.0}, "clip_threshold must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"foreach": True, "fused": True}, "got both"),
    ],
)
def test_illegal_settings(settings, words):
    with pytest.raises(RecipeError, match=words):
        CAME([start((2, 2), torch.float32)], **{"lr": 1e-3, **settings})


def test_a_group_with_illegal_settings_is_not_added():
    optimizer = CAME([start((2, 2), torch.float32)], lr=1e-3)
    with pytest.raises(ValueError, match="betas are 3 numbers"):
        optimizer.add_param_group({"params": start((3, 2), torch.float32), "betas": (0.9, 1.5)})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused():
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TrainingError, match="sparse=False"):
        CAME(table.parameters(), lr=1e-3).step()


def test_complex_and_sharded_parameters_are_refused():
    with pytest.raises(RecipeError, match="complex"):
        CAME([nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))], lr=1e-3)
    flat = start((8,), torch.float32)
    flat._is_flat_param = True  # as FullyShardedDataParallel marks its own
    with pytest.raises(RecipeError, match="sharded"):
        CAME([flat], lr=1e-3)


def test_the_pure_function_takes_plain_tensors():
    weights, momentum, squares = (torch.zeros(3) for _ in range(3))
    came_vector_(weights, torch.ones(3), momentum, squares, lr=1e-2, settings=CAMESettings())
    close(weights, torch.full((3,), -1e-3))
    close(squares, torch.full((3,), 1e-3))
