import pytest
import torch
from torch import Tensor, nn

from sartor.core import Family, FamilyError, Member, NoEffectError, RecipeError
from sartor.measure import count_flops, count_params
from sartor.nn import tiny_vit
from sartor.nn.sources import seeded
from sartor.stitch import find_anchor, stitch
from sartor.stitch.scalenet import (
    ScaleNetConfig,
    count_executed_params,
    param_groups,
    scale_depth,
)
from sartor.stitch.shared_blocks import LoraLinear, ParallelAdapter, tied_names
from sartor.testing import tiny_conv_family, tiny_swin_family

DEIT = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224")


def base(depth: int = 3, **more: object) -> nn.Module:
    with seeded(0):
        return tiny_vit(**{"embed_dim": 24, "depth": depth, "num_heads": 4, **more}).eval()


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def excite_(model: nn.Module) -> nn.Module:
    """Give adapters weights, as if they were trained."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, ParallelAdapter | LoraLinear):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


# --- the card's figures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "block", "unshared", "shared"),
    [
        (DEIT[0], 5_717_416, 444_864, 11_055_784, (5_795_944, 5_869_864, 6_313_384)),
        (DEIT[1], 22_050_664, 1_774_464, 43_344_232, (22_207_528, 22_355_176, 23_241_064)),
        (DEIT[2], 86_567_656, 7_087_872, 171_622_120, (86_881_192, 87_176_296, 88_946_920)),
    ],
)
def test_parameters_of_deits(
    name: str, params: int, block: int, unshared: int, shared: tuple[int, ...]
) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model, twice = timm.create_model(name), timm.create_model(name, depth=24)
    assert count_params(model) == params and count_params(model.blocks[0]) == block
    assert count_params(twice) == unshared
    plain = scale_depth(model, ScaleNetConfig(adapter=None))
    assert count_params(plain) == params and count_executed_params(plain) == unshared
    for rank, wanted in zip((8, 16, 64), shared, strict=True):
        deep = scale_depth(model, ScaleNetConfig(rank=rank))
        dim = model.embed_dim
        assert count_params(deep) == wanted == params + 24 * (2 * dim * rank + rank + dim)


def test_parameters_of_the_toy() -> None:
    model = base()
    deep = scale_depth(model, ScaleNetConfig(rank=4))
    assert (count_params(model), count_params(deep)) == (22_522, 23_842)
    assert count_params(deep.blocks[0].mlp.adapter) == 220
    assert count_params(deep) / count_params(model) < 1.06


def test_operations_grow_with_the_depth() -> None:
    model, example = base(), torch.zeros(1, 1, 8, 8)
    once, twice = (count_flops(m, example) for m in (model, base(6)))
    plain = scale_depth(model, ScaleNetConfig(adapter=None))
    assert count_flops(plain, example) == twice > 1.9 * once


# --- equal outputs ------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["parallel", "lora"])
@pytest.mark.parametrize("mapping", ["cyclic", "block", (0, 2, 1, 0, 1)])
def test_adapters_start_at_zero(adapter: str, mapping: object) -> None:
    model = base()
    plain = scale_depth(model, ScaleNetConfig(mapping=mapping, adapter=None))
    deep = scale_depth(model, ScaleNetConfig(mapping=mapping, adapter=adapter))
    assert torch.equal(deep(images()), plain(images()))
    assert not torch.equal(excite_(deep)(images()), plain(images()))


@pytest.mark.parametrize("adapter", ["parallel", "lora"])
def test_at_the_same_depth_it_is_the_original(adapter: str) -> None:
    model = base()
    deep = scale_depth(model, ScaleNetConfig(num_layers=3, adapter=adapter, private_norm=True))
    assert torch.equal(deep(images()), model(images()))


@pytest.mark.parametrize(
    ("mapping", "order"),
    [("cyclic", [0, 1, 2, 0, 1, 2]), ("block", [0, 0, 1, 1, 2, 2]), ((2, 0, 1), [2, 0, 1])],
)
def test_it_runs_the_blocks_in_that_order(mapping: object, order: list[int]) -> None:
    model = base()
    deep = scale_depth(model, ScaleNetConfig(mapping=mapping, adapter=None))
    model.blocks = nn.Sequential(*(model.blocks[number] for number in order))
    assert torch.equal(deep(images()), model(images()))


def test_the_model_is_left_as_it_is() -> None:
    model = base()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted, state = model(images()), torch.get_rng_state()
    deep = excite_(scale_depth(model, ScaleNetConfig()))
    nn.init.zeros_(deep.blocks[0].attn.qkv.weight)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(model(images()), wanted) and len(model.blocks) == 3
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_modes_stay(training: bool) -> None:
    deep = scale_depth(base().train(training))
    assert {module.training for module in deep.modules()} == {training}


def test_adapters_follow_the_seed() -> None:
    weights = [
        scale_depth(base(), ScaleNetConfig(seed=seed)).blocks[0].mlp.adapter.down.weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["cyclic", "block"])
@pytest.mark.parametrize("adapter", ["parallel", "lora", None])
def test_gradients_are_the_sums_of_those_of_copies(mapping: str, adapter: str | None) -> None:
    config = ScaleNetConfig(mapping=mapping, adapter=adapter, rank=4)
    shared = excite_(scale_depth(base(), config)).double()
    groups = tied_names(shared)
    untied = scale_depth(base(), config).double()
    untied.load_state_dict(shared.state_dict())
    for name in [name for group in groups for name in group]:
        owner, _, leaf = name.rpartition(".")
        module = untied.get_submodule(owner)
        setattr(module, leaf, nn.Parameter(getattr(module, leaf).detach().clone()))
    for model in (shared, untied):
        model(images().double()).logsumexp(1).sum().backward()
    assert not tied_names(untied) and len(groups) == 36
    one, many = (dict(m.named_parameters(remove_duplicate=False)) for m in (shared, untied))
    for group in groups:
        wanted = sum(many[name].grad for name in group)
        torch.testing.assert_close(one[group[0]].grad, wanted, rtol=1e-5, atol=1e-9)


def test_a_step_keeps_layers_identical_and_takes_each_tensor_once() -> None:
    deep = scale_depth(base(), ScaleNetConfig(rank=4))
    weight = deep.blocks[0].attn.qkv.weight
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(param_groups(deep, lr=0.1, weight_decay=0.0))
    deep(images()).square().mean().backward()
    gradient = weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(weight, before - 0.1 * gradient)
    assert deep.blocks[3].attn.qkv.weight is weight


@pytest.mark.parametrize("adapter", ["parallel", "lora", None])
def test_groups_hold_every_parameter_once(adapter: str | None) -> None:
    deep = scale_depth(base(), ScaleNetConfig(adapter=adapter))
    deep.cls_token.requires_grad_(False)
    groups = param_groups(deep, lr=0.01, adapter_lr_mult=4, weight_decay=0.1)
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in deep.parameters() if p.requires_grad}
    adapters = {id(p) for n, p in deep.named_parameters() if "adapter" in n or "lora" in n}
    for group in groups:
        own = {id(p) in adapters for p in group["params"]}
        assert own == {group["lr"] == 0.04} and group["lr"] in (0.01, 0.04)
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.1}
    torch.optim.AdamW(groups)  # which refuses a parameter in two groups


# --- what belongs to a layer --------------------------------------------------------------------


def test_stochastic_depth_is_each_layer_s_own() -> None:
    deep = scale_depth(base(), ScaleNetConfig(drop_path=0.5)).train()
    assert isinstance(deep.blocks[0].drop_path1, nn.Identity)
    rates = [block.drop_path1.drop_prob for block in deep.blocks[1:]]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert deep.blocks[1].norm1.weight is deep.blocks[4].norm1.weight
    kept = scale_depth(deep, ScaleNetConfig(adapter=None))
    assert kept.blocks[7].drop_path2.drop_prob == pytest.approx(0.1)
    off = scale_depth(deep, ScaleNetConfig(drop_path=0.0, num_layers=6, adapter=None))
    assert isinstance(off.blocks[5].drop_path1, nn.Identity)


def test_private_norms_cost_four_times_the_width_a_repeat() -> None:
    model = base()
    plain, private = (
        scale_depth(model, ScaleNetConfig(adapter=None, private_norm=own)) for own in (False, True)
    )
    assert count_params(private) - count_params(plain) == 3 * 2 * 2 * 24
    assert torch.equal(private(images()), plain(images()))
    first, second = private.blocks[0], private.blocks[3]
    assert first.norm1.weight is not second.norm1.weight
    assert first.attn.qkv.weight is second.attn.qkv.weight


def test_lora_lies_on_queries_keys_values_and_the_mlp() -> None:
    deep = scale_depth(base(), ScaleNetConfig(adapter="lora", rank=4))
    block = deep.blocks[0]
    found = [name for name, m in block.named_modules() if isinstance(m, LoraLinear)]
    assert found == ["attn.qkv", "mlp.fc1", "mlp.fc2"]
    own = 4 * ((24 + 72) + (24 + 96) + (96 + 24))
    assert count_params(deep) - count_params(base()) == 6 * own


def test_hooks_fire_for_their_layer_alone() -> None:
    deep, fired = scale_depth(base(), ScaleNetConfig()), []
    deep.blocks[4].register_forward_hook(lambda *_: fired.append(4))
    deep(images())
    assert fired == [4]


def test_timm_s_features_reach_the_new_layers() -> None:
    deep = scale_depth(base(), ScaleNetConfig())
    assert [row["module"] for row in deep.feature_info] == [f"blocks.{i}" for i in range(6)]
    _, maps = deep.forward_intermediates(images(), indices=[2, 5])
    assert [tuple(m.shape) for m in maps] == [(4, 24, 4, 4)] * 2


# --- other models -------------------------------------------------------------------------------


def test_a_swin_is_deepened_stage_by_stage() -> None:
    model = tiny_swin_family().models[0]
    inputs = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    third = scale_depth(model, ScaleNetConfig(rank=2))
    assert [len(stage.blocks) for stage in third.layers] == [2, 2, 4, 2]
    shifts = [any(block.shift_size) for block in third.layers[1].blocks]
    both = scale_depth(third, ScaleNetConfig(rank=2, blocks="layers.1.blocks", mapping="block"))
    assert [len(stage.blocks) for stage in both.layers] == [2, 4, 4, 2]
    assert [any(b.shift_size) for b in both.layers[1].blocks] == [s for s in shifts for _ in "12"]
    plain = scale_depth(model, ScaleNetConfig(adapter=None))
    assert torch.equal(third(inputs), plain(inputs)) and both(inputs).shape == (2, 4)
    for stage, layer in ((2, 2), (1, 1)):
        blocks = both.layers[stage].blocks
        assert blocks[0].attn.qkv.weight is blocks[layer].attn.qkv.weight
    # two layers are new in each stage, and no more than four adapters a stage: 2 d r + r + d
    assert count_params(both) - count_params(model) == 4 * (32 * 4 + 2 + 32) + 4 * (16 * 4 + 2 + 16)


def test_any_list_of_equal_blocks() -> None:
    model = tiny_conv_family().models[0]
    inputs = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    deep = scale_depth(model, ScaleNetConfig(blocks="body", adapter=None))
    assert len(deep.body) == 6 and isinstance(deep.body, nn.ModuleList)
    assert deep(inputs).shape == (2, 4)
    assert deep.body[0][1].running_mean.data_ptr() != deep.body[3][1].running_mean.data_ptr()


def test_a_family_with_its_deepened_model_is_stitched() -> None:
    small, example = Member(name="small", model=base()), torch.zeros(1, 1, 8, 8)
    deep = Member(name="deep", model=excite_(scale_depth(base(), ScaleNetConfig())))
    anchor = find_anchor(deep, example)
    assert anchor.depths == (6,)
    assert torch.equal(anchor(images()), deep.model(images()))
    net = stitch(Family((small, deep)), example)
    net.init_stitches(images(32))
    index = net.num_configs - 1
    net.set_config(1)
    assert torch.equal(net(images()), deep.model(images()))
    assert net.num_params(1) == count_params(deep.model)
    net.set_config(index)
    route = net.extract(index)
    assert torch.equal(route(images()), net(images()))


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"num_layers": 2}, RecipeError, "3 blocks and 2 layers were asked for"),
        ({"num_layers": 0}, RecipeError, "3 blocks and 0 layers were asked for"),
        ({"mapping": (0, 1, 2, 3)}, RecipeError, "takes block 3 of 3"),
        ({"mapping": (0, 1)}, RecipeError, "3 blocks and 2 layers"),
        ({"num_layers": 3, "adapter": None}, NoEffectError, "already has these 3 blocks"),
        ({"blocks": "layers"}, FamilyError, "no list of blocks called 'layers'"),
        ({"blocks": "norm"}, FamilyError, "no list of blocks called 'norm'"),
    ],
)
def test_what_does_not_fit_the_model(config: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        scale_depth(base(), ScaleNetConfig(**config))


def test_a_dropped_block_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="leaves out the blocks 1"):
        scale_depth(base(), ScaleNetConfig(mapping=(0, 2, 0, 2)))


def test_stages_of_other_widths_are_refused() -> None:
    with pytest.raises(FamilyError, match=r"layers\.0 and layers\.1 differ in the shapes"):
        scale_depth(tiny_swin_family().models[0], ScaleNetConfig(blocks="layers"))


def test_models_without_the_parts() -> None:
    conv = tiny_conv_family().models[0]
    with pytest.raises(FamilyError, match="has no list of blocks where timm or transformers"):
        scale_depth(conv)
    with pytest.raises(FamilyError, match="A Sequential has no mlp with linear layers"):
        scale_depth(conv, ScaleNetConfig(blocks="body"))
    with pytest.raises(FamilyError, match="A Sequential has no linear layers for LoRA"):
        scale_depth(conv, ScaleNetConfig(blocks="body", adapter="lora"))
    with pytest.raises(FamilyError, match="A Sequential has no stochastic depth"):
        scale_depth(conv, ScaleNetConfig(blocks="body", adapter=None, drop_path=0.1))
    with pytest.raises(FamilyError, match="no list of blocks called 'body'"):
        conv.body = nn.ModuleList()
        scale_depth(conv, ScaleNetConfig(blocks="body"))
