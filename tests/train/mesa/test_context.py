"""Mesa: exact forward, gradients within the quantiser's bound, and everything it must not touch."""

import copy
import inspect

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from sartor.core.errors import ArtifactError, RecipeError, TrainingError
from sartor.train import load_tensors, save_tensors
from sartor.train.mesa.context import Mesa, mesa_
from sartor.train.mesa.operation import head_counts
from sartor.train.mesa.settings import MesaSettings


def vit(**more) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.models.vision_transformer.VisionTransformer(
            img_size=8,
            patch_size=2,
            in_chans=1,
            num_classes=10,
            embed_dim=48,
            num_heads=3,
            class_token=False,
            global_pool="avg",
            **{"depth": 2, **more},
        )


def data(seed: int = 0, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=draw), torch.randint(10, (size,), generator=draw)


def gradients(model: nn.Module) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return found


def step(model: nn.Module, *, dtype: torch.dtype | None = None, seed: int = 0):
    x, y = data()
    torch.manual_seed(seed)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        outputs = model(x)
        loss = F.cross_entropy(outputs.float(), y)
    loss.backward()
    return outputs.detach(), gradients(model)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# --- whole models -------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False], ids=["sdpa", "explicit softmax"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_forward_is_bit_exact_and_the_gradient_close(fused, dtype):
    model = vit(proj_drop_rate=0.1)
    for block in model.blocks:
        block.attn.fused_attn = fused
    outputs, wanted = step(model, dtype=dtype)
    mesa = mesa_(model)
    ours, given = step(model, dtype=dtype)
    assert torch.equal(ours, outputs)
    assert 0 < relative(given, wanted) < 0.01
    assert mesa.report().ratio > (2 if dtype else 3.5)
    mesa.remove()
    again, plain = step(model, dtype=dtype)
    assert torch.equal(again, outputs) and torch.equal(plain, wanted)


def test_context_and_in_place_form_are_the_same():
    results = []
    for form in ("context", "in place"):
        model = vit()
        if form == "in place":
            mesa_(model)
            _, found = step(model)
        else:
            x, y = data()
            with Mesa(model):
                outputs = model(x)
            F.cross_entropy(outputs, y).backward()
            found = gradients(model)
        results.append(found)
    assert torch.equal(*results)


def test_ratio_and_group_gain_of_the_card():
    errors = {}
    for groups in ("heads", "tensor"):
        model = vit()
        for block in model.blocks:
            block.attn.fused_attn = False
        _, wanted = step(model)
        mesa = mesa_(model, MesaSettings(groups=groups, stochastic=False))
        errors[groups] = relative(step(model)[1], wanted)
        assert mesa.report().stored_bytes / mesa.report().exact_bytes <= 0.30
    assert errors["heads"] < errors["tensor"] <= 0.01


def test_convolutions_and_batch_norm():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, 32, 32, generator=draw)
    model = timm.create_model("test_resnet", num_classes=5)
    state = copy.deepcopy(model.state_dict())
    results = []
    for mesa in (None, mesa_):
        model.load_state_dict(state)
        if mesa:
            made = mesa(model, MesaSettings(groups="heads", num_heads=4))
        outputs = model(x)
        outputs.square().mean().backward()
        results.append((outputs.detach(), gradients(model), model.state_dict()))
    assert (
        torch.equal(results[0][0], results[1][0]) and made.report().ratio > 3
    )  # indices of the pooling stay
    assert 0 < relative(results[1][1], results[0][1]) < 0.1
    assert all(torch.equal(value, results[1][2][key]) for key, value in results[0][2].items())


def test_a_model_of_transformers_with_its_own_loss():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).train()
    tokens = torch.randint(50, (16, 24))
    labels = torch.randint(2, (16,))
    results = []
    for mesa in (None, Mesa(model)):
        torch.manual_seed(5)  # dropout
        made = under(mesa, lambda: model(input_ids=tokens, labels=labels))
        made.loss.backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        results.append((made.loss.detach(), found))
    assert torch.equal(results[0][0], results[1][0])
    assert 0 < relative(results[1][1], results[0][1]) < 0.01 and mesa.report().ratio > 3.5
    mesa_(model)
    assert "labels" in inspect.signature(model.forward).parameters  # as trainers ask


def test_a_window_model_knows_the_heads_of_each_stage():
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, num_classes=3)
    heads = head_counts(model)
    assert [heads[f"layers.{i}"] for i in range(4)] == [3, 6, 12, 24]
    mesa = mesa_(model, MesaSettings(momentum=0.5))
    model(torch.randn(1, 3, 56, 56)).sum().backward()
    alphas = {k: len(v) for k, v in mesa.state_dict().items() if k.startswith("alpha.")}
    assert {alphas[key] for key in alphas if "layers.2.blocks.0" in key} == {12}
    assert mesa.report().ratio > 3


def test_the_allocator_sees_the_saving():
    from sartor.core import Target
    from sartor.measure import peak_memory_bytes

    model = vit(depth=6)
    x, _ = data(size=256)
    target = Target.parse("cpu/eager")

    def forward() -> None:
        kept.append(model(x))

    kept: list[torch.Tensor] = []
    peaks = []
    for mesa in (None, mesa_):
        if mesa:
            mesa(model)
        forward()
        kept.clear()
        peaks.append(peak_memory_bytes(forward, target))
        kept.clear()
    assert peaks[1] < 0.55 * peaks[0]


# --- together with other things -----------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_inside_stores_the_inputs_of_blocks(reentrant):
    model = vit(proj_drop_rate=0.1)
    outputs, wanted = step(model)
    original = model.blocks

    class Recomputed(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=reentrant)

    model.blocks = nn.Sequential(*map(Recomputed, original))
    mesa = mesa_(model)
    ours, given = step(model)
    assert torch.equal(ours, outputs)
    assert 0 < relative(given, wanted) < 0.01
    inputs = len(original) * 64 * 16 * 48 * 4
    assert mesa.report().kinds["custom"][0] == pytest.approx(inputs, rel=0.05)
    assert mesa.report().ratio > 3
    mesa.remove()
    kept = mesa_(model, MesaSettings(keep=("custom",)))
    closer = step(model)[1]
    assert relative(closer, wanted) < relative(given, wanted)
    assert kept.report().kinds["custom"] == (inputs, inputs)


def test_dropout_and_the_global_draws_are_untouched_and_masks_exact():
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.3))
    x = torch.randn(128, 64, requires_grad=True)

    def run() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        torch.manual_seed(4)
        out = model(x)
        (grad,) = torch.autograd.grad(out.sum(), x)
        return out.detach(), grad, torch.get_rng_state()

    plain = run()
    mesa = mesa_(model, MesaSettings(groups=4))
    ours = run()
    assert all(torch.equal(a, b) for a, b in zip(plain, ours, strict=True))
    exact, stored = mesa.report().kinds["other"]
    assert stored <= exact / 32 + 16  # a bit for each of the mask's floats


def test_relu_lets_the_same_gradients_through():
    x = torch.cat((torch.linspace(-2, 2, 4001), torch.tensor([0.0, 1e-6, 100.0]))).view(1, -1)
    x.requires_grad_()
    model = nn.ReLU()
    with Mesa(model, MesaSettings(groups=1, min_numel=1)):
        out = model(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad, (x > 0).float())


def test_weights_are_stored_by_nobody_and_frozen_ones_cost_nothing():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    model.requires_grad_(False)
    model[1].weight.requires_grad_()
    mesa = mesa_(model, MesaSettings(groups=4))
    model(torch.randn(256, 64)).sum().backward()
    (pair,) = mesa.report().kinds.values()
    assert pair == (256 * 64 * 4, 256 * 64 + 8 * 4)  # the second layer's input alone


@pytest.mark.parametrize("trainable", [True, False])
def test_weights_in_the_precision_of_autocast_are_kept(trainable):
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model.requires_grad_(trainable)
    x = torch.randn(256, 64, requires_grad=True)

    def gradient() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
        return torch.autograd.grad(out.float().sum(), x)[0]

    wanted = gradient()
    mesa_(model, MesaSettings(groups=4))
    assert torch.equal(gradient(), wanted)


def test_one_tensor_that_several_operations_save_is_stored_once():
    model = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
    x = torch.randn(128, 64)
    with Mesa(model, MesaSettings(groups=4)) as mesa:
        sum(layer(x) for layer in model).sum().backward()
    assert mesa.report().kinds["linear"] == (128 * 64 * 4, 128 * 64 + 8 * 4)


def test_addresses_that_are_used_again_do_not_bring_old_codes_back():
    torch.manual_seed(0)
    layers = [m for _ in range(12) for m in (nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64))]
    model = nn.Sequential(*layers)
    x = torch.randn(512, 64)
    results = []
    for settings in (None, MesaSettings(groups=4, momentum=None)):
        if settings:
            mesa_(model, settings)
        (model(x) * x.flip(0)).sum().backward()
        results.append(gradients(model))
    assert 0 < relative(results[1], results[0]) < 0.1  # old codes give 0.8 and more


def test_values_that_are_not_finite_stay_as_they_are():
    model = nn.Softmax(dim=-1)
    x = torch.randn(4, 4, 32, 32)
    mask = torch.full((32, 32), -torch.inf).triu(1)
    q = torch.randn(2, 4, 32, 16, requires_grad=True)
    results = []
    for mesa in (None, Mesa(model, MesaSettings(num_heads=4, min_numel=1))):
        out = under(mesa, lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask))
        results.append(torch.autograd.grad(out.square().sum(), q)[0])
    assert torch.isfinite(results[1]).all() and relative(results[1], results[0]) < 0.05
    x[0, 0, 0, 0] = torch.nan
    with Mesa(model, MesaSettings(num_heads=4)) as mesa:
        made = (x.requires_grad_() * x.detach().clone()).sum()
    made.backward()
    assert mesa.report().ratio == 1.0  # both kept as they are
    assert torch.equal(x.grad.isnan(), x.isnan())


def under(mesa, call):
    if mesa is None:
        return call()
    with mesa:
        return call()


def test_what_a_gradient_divides_by_is_not_rounded_to_nothing():
    """Values from 1e-6 to 1 in one group, and a norm written by hand."""

    class Norm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.abs() + 1e-6).log() + 1 / (x + 1).square().mean(-1, keepdim=True).sqrt()

    x = torch.linspace(1e-3, 1, 128 * 64).view(128, 64) ** 2
    x.requires_grad_()
    model = Norm()
    (wanted,) = torch.autograd.grad(model(x).sum(), x)
    with Mesa(model, MesaSettings(groups=4, min_numel=1)) as mesa:
        out = model(x)
    (given,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(given, wanted, rtol=0.01, atol=0.01)
    assert mesa.report().kinds["singular"][1] > 0


def test_sparse_tensors_pass_as_they_are():
    weight = torch.eye(64).to_sparse()
    x = torch.randn(64, 128, requires_grad=True)
    with Mesa(nn.Identity(), MesaSettings(groups=4)):
        out = torch.sparse.mm(weight, x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad, torch.ones_like(x))


def test_eval_mode_and_no_grad_save_nothing_and_count_no_pass():
    model = vit()
    mesa = mesa_(model)
    x, _ = data()
    with torch.no_grad():
        model(x)
    model.eval()(x).sum().backward()
    assert mesa.step == 0
    with pytest.raises(TrainingError, match="no forward pass in training mode"):
        mesa.report()


def test_a_weight_changed_before_backward_is_an_error_as_in_autograd():
    model = nn.Linear(64, 64)
    x = torch.randn(256, 64, requires_grad=True)
    with Mesa(model, MesaSettings(groups=4)):
        out = model(x)
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(TrainingError, match="changed in place after the forward pass"):
        out.sum().backward()


def test_an_exception_leaves_nothing_active():
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.broken = nn.Linear(64, 64), True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layer(x)
            if self.broken:
                raise KeyboardInterrupt
            return x

    model = Breaks()
    mesa = mesa_(model, MesaSettings(groups=4))
    with pytest.raises(KeyboardInterrupt):
        model(torch.randn(256, 64))
    x = torch.randn(256, 64, requires_grad=True)
    (x * x).sum().backward()
    assert torch.equal(x.grad, 2 * x)
    assert not model.layer._forward_hooks and not model.layer._forward_pre_hooks
    model.broken = False
    model(x).sum().backward()
    assert mesa.report().ratio > 3.5


def test_a_copy_of_the_model_has_a_mesa_of_its_own():
    model = vit()
    mesa = mesa_(model)
    other = copy.deepcopy(model)
    step(other)
    assert mesa.step == 0 and other.forward.mesa.step == 1
    assert other.forward.mesa.model is other
    assert model.state_dict().keys() == vit().state_dict().keys()


# --- state --------------------------------------------------------------------------------------


def test_state_in_mid_run_gives_the_identical_continuation(tmp_path):
    def run(model, mesa, optimizer, steps):
        for number in steps:
            x, y = data(seed=number)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    whole = vit()
    mesa = mesa_(whole)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-2)
    run(whole, mesa, optimizer, range(3))
    save_tensors(mesa.state_dict(), tmp_path / "mesa.safetensors")
    resumed = vit()
    resumed.load_state_dict(whole.state_dict())
    other = mesa_(resumed)
    other.load_state_dict(load_tensors(tmp_path / "mesa.safetensors"))
    second = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    fresh = copy.deepcopy(whole)
    fresh.forward.mesa.step, fresh.forward.mesa._compressor.ranges = 0, {}
    third = torch.optim.AdamW(fresh.parameters(), lr=1e-2)
    third.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for triple in ((whole, mesa, optimizer), (resumed, other, second), (fresh, None, third)):
        run(*triple, range(3, 6))
    one, two, without = (list(m.parameters()) for m in (whole, resumed, fresh))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, without, strict=True))
    ranges = other.state_dict()
    assert mesa.state_dict().keys() == ranges.keys() and len(ranges) > 20
    assert all(torch.equal(value, ranges[key]) for key, value in mesa.state_dict().items())


def test_running_ranges_follow_the_card():
    model = nn.Linear(64, 8)
    mesa = mesa_(model, MesaSettings(groups=1))
    for low, high in ((-1.0, 9.0), (-3.0, 17.0)):
        model(torch.linspace(low, high, 128 * 64).view(128, 64)).sum().backward()
    state = mesa.state_dict()
    (alpha,), (beta,) = (
        [v for k, v in state.items() if k.startswith(p)] for p in ("alpha", "beta")
    )
    assert float(alpha) == pytest.approx(11.0) and float(beta) == pytest.approx(-1.2)
    assert int(state["step"]) == 2


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bits": 3}, "2, 4 or 8 bits"),
        ({"groups": 0}, "number of runs"),
        ({"groups": "head"}, "'heads', 'tensor'"),
        ({"groups": True}, "number of runs"),
        ({"num_heads": 0}, "num_heads"),
        ({"momentum": 1.0}, "momentum"),
        ({"min_numel": -1}, "min_numel"),
        ({"keep": ("geluu",)}, "did you mean 'gelu'"),
        ({"keep": "gelu"}, "tuple"),
        ({"exclude": "head"}, "tuple"),
    ],
)
def test_bad_settings_are_refused(given, words):
    with pytest.raises(RecipeError, match=words):
        MesaSettings(**given)


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        (nn.Linear(12, 4), {}, "number of heads"),
        (nn.Linear(12, 4), {"groups": 5}, "got 5 and 12"),
        (nn.Sequential(nn.Linear(12, 4)), {"groups": 3, "exclude": ("1",)}, "matches no module"),
    ],
)
def test_models_that_do_not_fit_are_refused(model, given, words):
    with pytest.raises(RecipeError, match=words):
        mesa_(model, MesaSettings(**given))
    assert "forward" not in model.__dict__


def test_twice_undone_and_compiled_models_are_refused():
    model = nn.Linear(12, 4)
    mesa = mesa_(model, MesaSettings(groups=3))
    with pytest.raises(RecipeError, match="already replaced"):
        mesa_(model, MesaSettings(groups=3))
    mesa.remove()
    with pytest.raises(RecipeError, match="undoes mesa_, once"):
        mesa.remove()
    with pytest.raises(TrainingError, match="eager mode"):
        mesa_(torch.compile(model), MesaSettings(groups=3))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "step"),
        ({"step": torch.tensor(1), "alpha.a": torch.ones(2)}, "beta.a"),
        ({"step": torch.tensor(1), "other": torch.ones(2)}, "other"),
        (
            {"step": torch.tensor(1), "alpha.a": torch.ones(2), "beta.a": torch.ones(3)},
            r"\(2,\) and \(3,\)",
        ),
    ],
)
def test_bad_states_are_refused(state, words):
    mesa = Mesa(nn.Linear(12, 4), MesaSettings(groups=3))
    with pytest.raises(ArtifactError, match=words):
        mesa.load_state_dict(state)


def test_excluded_modules_and_kinds_stay_exact():
    model = vit()
    everything = mesa_(model)
    step(model)
    everything.remove()
    before = everything.report().kinds
    mesa = mesa_(model, MesaSettings(keep=("gelu",), exclude=("blocks.0.*",)))
    step(model)
    assert mesa.report().kinds["gelu"][0] == mesa.report().kinds["gelu"][1]
    assert before["gelu"][1] < 0.3 * before["gelu"][0]
    exact, stored = mesa.report().kinds["attention"]
    assert 0.5 * exact < stored < 0.75 * exact


@pytest.mark.gpu
def test_the_peak_of_a_gpu_falls_to_less_than_half():
    model = vit(depth=6).cuda()
    x = data(size=2048)[0].cuda()
    peaks = []
    for settings in (None, MesaSettings()):
        if settings:
            mesa_(model, settings)
        model(x).sum().backward()
        model.zero_grad()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(x).sum().backward()
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        model.zero_grad()
    assert peaks[1] < 0.5 * peaks[0]
