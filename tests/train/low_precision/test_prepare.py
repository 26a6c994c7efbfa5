"""Formats, quantisers, the three products of a linear layer, and the verb that converts a model."""

import copy

import pytest
import torch
from torch import nn

from sartor.core import DataError, NoEffectError, RecipeError, TargetError
from sartor.train import (
    LinearPrecision,
    LowPrecisionLinear,
    Quantizer,
    hadamard_rotate,
    low_precision_recipe,
    prepare_low_precision_,
    quantize,
)
from sartor.train.low_precision.formats import FORMATS, round_to
from sartor.train.low_precision.recipes import RECIPES


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- formats ------------------------------------------------------------------------------------


def test_casts_of_the_card() -> None:
    values = torch.tensor([0.1, -0.3, 1.3, 17, 449, 60000])
    e4m3, e5m2 = (round_to(values, FORMATS[name]).tolist() for name in ("e4m3", "e5m2"))
    assert e4m3 == [0.1015625, -0.3125, 1.25, 16, 448, 448]
    assert e5m2 == [0.09375, -0.3125, 1.25, 16, 448, 57344]


@pytest.mark.parametrize(
    ("name", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)]
)
def test_torch_rounds_fp8_alike(name: str, dtype: torch.dtype) -> None:
    values = normal(20_000) * (6 * normal(20_000, seed=1)).exp2()
    inside = values.clamp(-FORMATS[name].largest, FORMATS[name].largest)
    assert torch.equal(round_to(values, FORMATS[name]), inside.to(dtype).float())


def test_e2m1_holds_its_sixteen_numbers() -> None:
    found = round_to(torch.linspace(-7, 7, 1401), FORMATS["e2m1"]).abs().unique()
    assert found.tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]


@pytest.mark.parametrize(
    ("name", "largest", "smallest"),
    [
        ("e4m3", 448, 2**-9),
        ("e5m2", 57344, 2**-16),
        ("e3m2", 28, 2**-4),
        ("e2m3", 7.5, 2**-3),
        ("e2m1", 6, 0.5),
    ],
)
def test_ranges(name: str, largest: float, smallest: float) -> None:
    assert round_to(torch.tensor([1e9, -1e9]), FORMATS[name]).tolist() == [largest, -largest]
    found = round_to(torch.tensor([smallest, 0.6 * smallest, 0.4 * smallest]), FORMATS[name])
    assert found.tolist() == [smallest, smallest, 0]


def test_nf4_is_the_published_table() -> None:
    ends = round_to(torch.tensor([-1.0, -0.7, -0.1, 0.0, 0.08, 0.7, 1.0]), FORMATS["nf4"])
    wanted = [-1.0, -0.6961928, -0.0910500, 0.0, 0.0795803, 0.7229568, 1.0]
    torch.testing.assert_close(ends, torch.tensor(wanted), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("format", "block", "error"),
    [
        ("int8", None, 0.01040),
        ("int8", "row", 0.00695),
        ("e4m3", None, 0.02654),
        ("e4m3", 32, 0.02942),
        ("e5m2", 32, 0.05413),
        ("e2m3", 32, 0.02837),
        ("e3m2", 32, 0.05413),
        ("e2m1", 32, 0.11485),
        ("int4", 32, 0.0967),
        ("nf4", 64, 0.09201),
        ("ternary", None, 0.51206),
        ("binary", None, 0.60197),
    ],
)
def test_relative_errors_of_the_card(format: str, block: object, error: float) -> None:
    values = normal(256, 256)
    gap = quantize(values, format, block).dequantize() - values
    assert float(gap.norm() / values.norm()) == pytest.approx(error, abs=5.1e-6)


def test_bfloat16s_error_of_the_card() -> None:
    values = normal(256, 256)
    gap = values.to(torch.bfloat16).float() - values
    assert float(gap.norm() / values.norm()) == pytest.approx(0.00166, abs=5.1e-6)


@pytest.mark.parametrize(
    ("format", "scale", "total"),
    [("e4m3", 0.0078125, 6.128906), ("e5m2", 6.1035e-5, 6.117188), ("e2m1", 0.5, 5.25)],
)
def test_mx_figures_of_the_card(format: str, scale: float, total: float) -> None:
    kept = quantize(normal(1, 64), format, 32)
    assert kept.scale.flatten().tolist() == pytest.approx([scale] * 2, rel=1e-4)
    assert float(kept.dequantize().sum()) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("format", ["e4m3", "e5m2", "e2m1"])
def test_torchao_casts_mx_alike(format: str) -> None:
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    kinds = {
        "e4m3": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
        "e2m1": torch.float4_e2m1fn_x2,
    }
    values = normal(8, 64)
    theirs = mx.MXTensor.to_mx(values, kinds[format], 32).dequantize(torch.float32)
    assert torch.equal(quantize(values, format, 32).dequantize(), theirs)


def test_an_mx_scale_clips_what_lies_above_the_largest_element() -> None:
    block = torch.zeros(1, 32)
    block[0, 0] = 7.0
    kept = quantize(block, "e2m1", 32)
    assert kept.scale.item() == 1.0 and kept.dequantize()[0, 0].item() == 6.0


def test_int8_rows_beat_fp8_on_normal_data() -> None:
    values = normal(64, 64)
    errors = [
        float((quantize(values, *how).dequantize() - values).norm())
        for how in (("int8", "row"), ("e4m3", "row"))
    ]
    assert errors[0] < errors[1] / 2


def test_stochastic_rounding_keeps_the_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.full((40_000,), 2.3)
    for name, allowed in (("e2m1", {2.0, 3.0}), ("int4", {2.0, 3.0}), ("e4m3", {2.25, 2.5})):
        made = round_to(values, FORMATS[name], stochastic=True, generator=draw)
        assert set(made.unique().tolist()) == allowed
        assert float(made.mean()) == pytest.approx(2.3, abs=0.01)
        negative = round_to(-values, FORMATS[name], stochastic=True, generator=draw)
        assert float(negative.mean()) == pytest.approx(-2.3, abs=0.01)


def test_what_a_format_holds_is_kept_exactly() -> None:
    for name in ("e4m3", "e2m1", "int4"):
        values = round_to(normal(4, 32) * 3, FORMATS[name])
        values[:, 0] = FORMATS[name].largest
        for rounding in ("nearest", "stochastic"):
            kept = quantize(values, name, 32 if name != "int4" else "row", rounding=rounding)
            assert torch.equal(kept.dequantize(), values), name


def test_scales_of_rows_blocks_tiles_and_zeros() -> None:
    values = normal(6, 64)
    assert quantize(values, "int8", "row").scale.shape == (6, 1)
    assert quantize(values, "int8", 16).scale.shape == (6, 4, 1)
    tiled = quantize(values, "e4m3", (4, 32))
    assert tiled.scale.shape == (4, 1) and tiled.dequantize().shape == (6, 64)
    top = quantize(values[:4, :32], "e4m3").dequantize()
    assert torch.equal(tiled.dequantize()[:4, :32], top)
    assert quantize(torch.zeros(2, 32), "e4m3", 32).dequantize().abs().sum() == 0


def test_bits_of_elements_and_scales() -> None:
    values = torch.ones(4, 64)
    assert quantize(values, "e2m1", 32).bits == 4 * 256 + 8 * 8
    assert quantize(values, "int8", "row").bits == 8 * 256 + 32 * 4


def test_nvfp4_scales_are_e4m3_numbers() -> None:
    kept = quantize(normal(8, 64), "e2m1", 16, scale="e4m3")
    factor = quantize(normal(8, 64), "e2m1", 16).scale.amax() / 448
    units = kept.scale / factor
    torch.testing.assert_close(round_to(units, FORMATS["e4m3"]), units, atol=0, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "fp8"}, "no number format 'fp8'"),
        ({"rounding": "up"}, "nearest or stochastic"),
        ({"block": 0}, "A block is None"),
        ({"block": "column"}, "A block is None"),
        ({"scale": "fp16"}, "fp32, e8m0 or e4m3"),
        ({"format": "int8", "scale": "e8m0"}, "belongs to float elements"),
    ],
)
def test_bad_quantisers_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Quantizer(**settings)


def test_bad_tensors_are_refused() -> None:
    with pytest.raises(DataError, match="Rows of 40 values do not divide into blocks of 32"):
        quantize(torch.ones(2, 40), "e4m3", 32)
    with pytest.raises(DataError, match="not finite"):
        quantize(torch.tensor([1.0, float("nan")]), "int8")
    with pytest.raises(DataError, match="empty"):
        quantize(torch.ones(0), "int8")
    with pytest.raises(RecipeError, match="no stochastic rounding"):
        quantize(torch.ones(64), "nf4", rounding="stochastic")


# --- the layer ----------------------------------------------------------------------------------


def gradients(layer: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    x = inputs.clone().requires_grad_()
    out = layer(x)
    for p in layer.parameters():
        p.grad = None
    (out * normal(*out.shape, seed=9)).sum().backward()
    return [out.detach(), x.grad, layer.weight.grad, layer.bias.grad]


def test_without_quantisers_it_is_the_linear_layer() -> None:
    linear = nn.Linear(64, 32)
    layer = LowPrecisionLinear.from_linear(linear, LinearPrecision())
    assert layer.weight is linear.weight
    inputs = normal(3, 5, 64)
    for ours, theirs in zip(gradients(layer, inputs), gradients(linear, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("block", ["row", 32, None])
def test_each_product_is_quantised_along_what_it_sums_over(block: object) -> None:
    """Against the products written out with dense matrices."""
    how = Quantizer(format="e2m1", block=block)
    linear = nn.Linear(64, 32)
    layer = LowPrecisionLinear.from_linear(
        linear, LinearPrecision(activation=how, weight=how, gradient=how)
    )
    x, g, w = normal(96, 64), normal(96, 32, seed=9), linear.weight.detach()
    out, dx, dw, db = gradients(layer, x)
    torch.testing.assert_close(out, how(x) @ how(w).T + linear.bias.detach())
    torch.testing.assert_close(dx, how(g) @ how(w.T.contiguous()).T)
    torch.testing.assert_close(dw, how(g.T.contiguous()) @ how(x.T.contiguous()).T)
    torch.testing.assert_close(db, g.sum(0))


def test_powers_of_two_go_through_all_three_products_exactly() -> None:
    def power(*shape: int, seed: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(seed)
        signs = 2.0 * torch.randint(2, shape, generator=draw) - 1
        return signs * torch.randint(-1, 2, shape, generator=draw).float().exp2()

    linear = nn.Linear(32, 32, bias=False)
    linear.weight.data = power(32, 32, seed=1)
    layer = LowPrecisionLinear.from_linear(copy.deepcopy(linear), RECIPES["mxfp4"].precision)
    x, g = power(64, 32, seed=2), power(64, 32, seed=3)
    made = []
    for module in (linear, layer):
        inputs = x.clone().requires_grad_()
        out = module(inputs)
        out.backward(g)
        made.append((out, inputs.grad, module.weight.grad))
    for exact, ours in zip(*made, strict=True):
        assert torch.equal(exact, ours)


def test_rows_that_fill_no_block_are_filled_up() -> None:
    layer = LowPrecisionLinear.from_linear(nn.Linear(64, 32), RECIPES["mxfp8"].precision)
    wanted = nn.Linear(64, 32)
    wanted.load_state_dict(layer.state_dict())
    inputs = normal(7, 64)
    ours, exact = gradients(layer, inputs)[2], gradients(wanted, inputs)[2]
    assert float((ours - exact).norm() / exact.norm()) < 0.06


def test_the_rotation_leaves_products_and_spreads_outliers() -> None:
    signs = 2.0 * torch.randint(2, (32,), generator=torch.Generator().manual_seed(0)) - 1
    left, right = normal(5, 64), normal(7, 64, seed=1)
    turned = [hadamard_rotate(part, signs) for part in (left, right)]
    torch.testing.assert_close(turned[0] @ turned[1].T, left @ right.T, atol=1e-4, rtol=1e-4)
    spike = torch.zeros(1, 32)
    spike[0, 3] = 8.0
    assert float(hadamard_rotate(spike, signs).abs().max()) == pytest.approx(8 / 32**0.5)


def test_gradients_with_random_rounding_are_right_in_the_mean() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(32, 32)
    recipe = LinearPrecision(
        gradient=Quantizer(format="e2m1", block=32, rounding="stochastic"), hadamard=True
    )
    layer = LowPrecisionLinear.from_linear(copy.deepcopy(linear), recipe)
    inputs = normal(32, 32)
    exact = gradients(linear, inputs)[2]
    mean = torch.stack([gradients(layer, inputs)[2] for _ in range(300)]).mean(0)
    once = gradients(layer, inputs)[2]
    assert float((mean - exact).norm() / exact.norm()) < 0.03
    assert float((once - exact).norm() / exact.norm()) > 0.1


def test_random_layers_go_on_the_same_after_a_restore() -> None:
    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        prepare_low_precision_(model, "mxfp4_stochastic")
        return model

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            model(normal(32, 32, seed=number)).square().mean().backward()
            optimizer.step()

    whole = build()
    optimizer = torch.optim.AdamW(whole.parameters())
    steps(whole, optimizer, range(3))
    saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    steps(whole, optimizer, range(3, 6))
    again = build()
    resumed = torch.optim.AdamW(again.parameters())
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    steps(again, resumed, range(3, 6))
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_autocast_and_checkpointing_compose() -> None:
    from torch.utils.checkpoint import checkpoint

    layer = LowPrecisionLinear.from_linear(nn.Linear(64, 32), RECIPES["mxfp8"].precision)
    inputs = normal(32, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(inputs)
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out, layer(inputs).to(torch.bfloat16))
    out.float().sum().backward()
    plain = layer.weight.grad.clone()
    layer.weight.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = checkpoint(layer, inputs, use_reentrant=False)
    again.float().sum().backward()
    assert torch.equal(layer.weight.grad, plain)


# --- the verb -----------------------------------------------------------------------------------


def model() -> nn.Module:
    return nn.ModuleDict(
        {"body": nn.Sequential(nn.Linear(64, 64), nn.ReLU()), "head": nn.Linear(64, 10)}
    )


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "fp8_blockwise"])
def test_every_recipe_trains(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    keys = list(net.state_dict())
    report = prepare_low_precision_(net, name)
    assert report.layers == ("0", "2") and report.backend == "emulated"
    assert [k for k in net.state_dict() if "draws" not in k] == keys
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    x, y = normal(64, 64), torch.arange(64) % 32
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_blockwise_fp8_on_a_layer_of_its_size() -> None:
    net = nn.Sequential(nn.Linear(128, 256))
    prepare_low_precision_(net, "fp8_blockwise")
    exact = nn.Linear(128, 256)
    exact.load_state_dict(net[0].state_dict())
    inputs = normal(30, 128)
    for ours, wanted in zip(gradients(net[0], inputs), gradients(exact, inputs), strict=True):
        assert float((ours - wanted).norm() / wanted.norm()) < 0.05


def test_heads_stay_and_are_listed() -> None:
    net = model()
    report = prepare_low_precision_(net, "int8")
    assert report.layers == ("body.0",) and "high precision" in report.skipped["head"]
    assert type(net["head"]) is nn.Linear


def test_tied_weights_stay_tied() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(32, 64), "out": nn.Linear(64, 32, bias=False)})
    net["out"].weight = net["embed"].weight
    prepare_low_precision_(net, "int8")
    assert net["out"].weight is net["embed"].weight


def test_misfits_are_refused_or_skipped() -> None:
    with pytest.raises(RecipeError, match="head maps 64 to 10"):
        prepare_low_precision_(model(), "mxfp8", ignore=())
    report = prepare_low_precision_(model(), "mxfp8", ignore=(), on_mismatch="skip")
    assert "no multiples of 32" in report.skipped["head"]


def test_bad_requests_are_refused() -> None:
    with pytest.raises(RecipeError, match="did you mean 'mxfp8'"):
        prepare_low_precision_(model(), "mxfp9")
    with pytest.raises(RecipeError, match="'error' or 'skip'"):
        prepare_low_precision_(model(), "int8", on_mismatch="adjust")
    with pytest.raises(NoEffectError, match="none matches"):
        prepare_low_precision_(model(), "int8", targets="tail.*")
    with pytest.raises(TargetError, match=r"on cpu, and it needs a GPU of compute capability 9\.0"):
        prepare_low_precision_(model(), "fp8_rowwise", emulate=False)
    with pytest.raises(TargetError, match="no kernel"):
        prepare_low_precision_(model(), "mxfp4", emulate=False)


def test_capabilities_of_the_native_recipes() -> None:
    native = {name: r.capability for name, r in RECIPES.items() if r.native}
    assert native == {"int8": (8, 0), "fp8_tensor": (8, 9), "fp8_rowwise": (9, 0)}
    assert low_precision_recipe("bitnet").precision.gradient is None


def test_torchaos_float8_emulation_agrees_on_the_forward_product() -> None:
    float8 = pytest.importorskip("torchao.float8")
    config = float8.Float8LinearConfig(emulate=True)
    net = nn.Sequential(nn.Linear(64, 32, bias=False))
    theirs = float8.convert_to_float8_training(copy.deepcopy(net), config=config)
    prepare_low_precision_(net, "fp8_tensor")
    inputs = normal(16, 64)
    ours, wanted = net(inputs).detach(), theirs(inputs).detach()
    assert float((ours - wanted).norm() / wanted.norm()) < 0.01


@pytest.mark.gpu
def test_native_fp8_on_a_gpu() -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs compute capability 9.0")
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).cuda().bfloat16()
    assert prepare_low_precision_(net, "fp8_rowwise").backend == "native"
    net(torch.randn(64, 256, device="cuda", dtype=torch.bfloat16)).sum().backward()
    assert net[0].weight.grad is not None
