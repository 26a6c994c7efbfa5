"""What CAME keeps: counted by formula, by what optimisers really hold, and after a round trip."""

import copy
import json
import math

import pytest
import torch
from torch import nn

from sartor.core.errors import ArtifactError, RecipeError
from sartor.train import CAME, load_checkpoint, optimizer_state_bytes
from sartor.train.came.state import state_shapes
from sartor.train.checkpoint import save_checkpoint


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8 * 36, 64),
        nn.Linear(64, 10),
    ).to(dtype)


def gradients(model, step):
    draw = torch.Generator().manual_seed(step)
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=draw).to(param.dtype)


def held(optimizer):
    """Bytes that an optimiser holds, counters left out; tensors of 8 bits say what is in them."""
    entries = optimizer.state.values()
    values = [v for state in entries for k, v in state.items() if k != "step"]
    return sum(_bytes(value) for value in values if isinstance(value, torch.Tensor) and value.ndim)


def _bytes(value):
    if hasattr(value, "codes"):
        return sum(part.nbytes for part in (value.codes, value.scale, value.qmap))
    return value.nbytes


def test_the_counts_of_the_card():
    def entries(shape, **conv):
        return sum(math.prod(s) for s in state_shapes(shape, **conv).values())

    assert entries((70, 30)) == 70 * 30 + 2 * (70 + 30)
    assert entries((8, 4, 3, 3), factor_conv=False) == 288 + 4 * 96 == 672 > 2 * 288
    assert entries((8, 4, 3, 3)) == 288 + 2 * (8 + 36) < 2 * 288
    assert entries((9,)) == 18 and entries(()) == 2


@pytest.mark.parametrize("factor_conv", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_formula_of_came_is_what_it_holds(dtype, factor_conv):
    model = net(dtype)
    optimizer = CAME(model.parameters(), lr=1e-3, factor_conv=factor_conv)
    gradients(model, 0)
    optimizer.step()
    assert held(optimizer) == optimizer_state_bytes(model, "came", factor_conv=factor_conv)


def test_the_formulas_of_the_others_are_what_they_hold():
    transformers = pytest.importorskip("transformers")
    for name, make in (
        ("adamw", torch.optim.AdamW),
        ("adafactor", torch.optim.Adafactor),
        (
            "adafactor_momentum",
            lambda params: transformers.Adafactor(
                params, lr=1e-3, beta1=0.9, scale_parameter=False, relative_step=False
            ),
        ),
    ):
        model = net()
        optimizer = make(model.parameters())
        gradients(model, 0)
        optimizer.step()
        assert held(optimizer) == optimizer_state_bytes(model, name), name


@pytest.mark.slow
def test_the_formula_of_8_bit_adam_is_what_torchao_holds():
    optim = pytest.importorskip("torchao.optim")
    model = net()
    optimizer = optim.AdamW8bit(model.parameters())
    gradients(model, 0)
    optimizer.step()
    assert held(optimizer) == optimizer_state_bytes(model, "adamw8bit")


def test_came_takes_about_half_of_adam_and_8_bit_adam_a_quarter():
    model = nn.Linear(512, 512, bias=False)
    sizes = {
        name: optimizer_state_bytes(model, name)
        for name in ("adamw", "came", "adamw8bit", "adafactor", "adafactor_momentum")
    }
    assert sizes["adamw"] == 8 * 512**2
    assert sizes["came"] / sizes["adamw"] == pytest.approx(0.5, abs=0.005)
    assert sizes["adamw8bit"] / sizes["adamw"] == pytest.approx(0.25, abs=0.01)
    assert sizes["adafactor"] < 0.01 * sizes["adamw"]
    assert sizes["came"] - sizes["adafactor_momentum"] == 4 * 2 * 512


def test_what_is_not_trained_counts_nothing():
    model = nn.Linear(8, 8, bias=False).requires_grad_(False)
    assert optimizer_state_bytes(model, "came") == 0


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(RecipeError, match="did you mean 'adamw'"):
        optimizer_state_bytes(net(), "adam")


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_saved_state_goes_on_bit_for_bit(dtype, foreach):
    model = net(dtype)
    settings = {"lr": 1e-2, "weight_decay": 0.1, "warmup_safe": True, "foreach": foreach}
    optimizer = CAME(model.parameters(), **settings)
    for step in range(5):
        gradients(model, step)
        optimizer.step()
    other = copy.deepcopy(model)
    resumed = CAME(other.parameters(), **settings)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(5, 10):
        for one, made in ((model, optimizer), (other, resumed)):
            gradients(one, step)
            made.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert resumed.state[next(other.parameters())]["exp_avg"].dtype == torch.float32


def test_a_checkpoint_on_disk_goes_on_bit_for_bit(tmp_path):
    model = net(torch.bfloat16)
    optimizer = CAME(model.parameters(), lr=1e-2, warmup_safe=True)
    for step in range(5):
        gradients(model, step)
        optimizer.step()
    save_checkpoint(tmp_path, model, optimizer, {"epoch": 1})
    other = net(torch.bfloat16)
    resumed = CAME(other.parameters(), lr=1e-2, warmup_safe=True)
    load_checkpoint(tmp_path, other, resumed)
    for one, made in ((model, optimizer), (other, resumed)):
        gradients(one, 5)
        made.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_loaded_state_is_a_copy():
    model = net()
    optimizer = CAME(model.parameters(), lr=1e-2)
    gradients(model, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    resumed = CAME(net().parameters(), lr=1e-2)
    resumed.load_state_dict(saved)
    for param in resumed.param_groups[0]["params"]:
        param.grad = torch.ones_like(param)
    resumed.step()
    for key, value in before["state"][0].items():
        now = saved["state"][0][key]
        assert torch.equal(value, now) if isinstance(value, torch.Tensor) else value == now


def test_a_state_of_the_released_code_is_taken():
    """It has the same names, a norm that nothing reads, and no entries for what is ours."""
    model = nn.Linear(4, 3)
    own = CAME(model.parameters(), lr=1e-2)
    gradients(model, 0)
    own.step()
    saved = copy.deepcopy(own.state_dict())
    known = ("lr", "eps", "clip_threshold", "betas", "weight_decay", "params")
    saved["param_groups"] = [{k: g[k] for k in known} for g in saved["param_groups"]]
    for state in saved["state"].values():
        state["RMS"] = torch.tensor(1.0)
    optimizer = CAME(model.parameters(), lr=1e-3, factor_conv=False)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert optimizer.param_groups[0]["factor_conv"] is False
    gradients(model, 1)
    optimizer.step()
    assert optimizer.state[model.weight]["step"] == 2 and "RMS" not in optimizer.state[model.weight]


def test_states_of_others_are_refused():
    model = net()
    gradients(model, 0)
    adam = torch.optim.AdamW(model.parameters())
    adam.step()
    optimizer = CAME(model.parameters(), lr=1e-3)
    with pytest.raises(ArtifactError, match="nothing as exp_avg_sq_row where CAME keeps"):
        optimizer.load_state_dict(adam.state_dict())
    assert not optimizer.state
    official = CAME(model.parameters(), lr=1e-3, factor_conv=False)
    official.step()
    saved = official.state_dict()
    for group in saved["param_groups"]:
        del group["factor_conv"]
    with pytest.raises(ArtifactError, match="the same factor_conv"):
        optimizer.load_state_dict(saved)


def test_settings_survive_as_json():
    model = net()
    groups = CAME(model.parameters(), lr=1e-3).state_dict()["param_groups"]
    optimizer = CAME(model.parameters(), lr=1e-3)
    optimizer.load_state_dict({"state": {}, "param_groups": json.loads(json.dumps(groups))})
    gradients(model, 0)
    optimizer.step()  # betas and eps have come back as lists
    assert optimizer.state[next(model.parameters())]["step"] == 1
