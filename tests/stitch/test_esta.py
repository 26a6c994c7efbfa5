import copy

import pytest
import torch
from torch import Tensor, nn

from sartor.core import Elastic, Family, FamilyError, NoEffectError, RecipeError
from sartor.nn import tiny_vit
from sartor.stitch import StitchableNetwork, stitch
from sartor.stitch.discovery import find_anchor
from sartor.stitch.esta import AdaptedNetwork, EstaSettings, adapt_stitchable
from sartor.stitch.importance_sampler import ImportanceSampler
from sartor.stitch.plan import StitchConfig
from sartor.stitch.stitch_lora import StitchSpecificLoRALinear
from sartor.testing import ElasticContract, tiny_resnet_family, tiny_swin_family, tiny_vit_family


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stitched() -> StitchableNetwork:
    net = stitch(tiny_vit_family(), noise(1, 1, 8, 8))
    net.init_stitches(noise(20, 1, 8, 8))
    return net


def adapted(**settings: object) -> AdaptedNetwork:
    torch.manual_seed(0)
    return adapt_stitchable(stitched(), EstaSettings(rank=2, **settings)).eval()  # type: ignore[arg-type]


def trained(**settings: object) -> AdaptedNetwork:
    """As after a training: updates and biases that are not zero."""
    net = adapted(**settings)
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(net.named_parameters()):
            if "lora_b" in name or "stitch_bias" in name:
                parameter.copy_(0.1 * noise(*parameter.shape, seed=seed))
    return net


def card_network() -> StitchableNetwork:
    """The card's toy: ViTs of widths 12 and 32, two anchors and the stitches (j, j), (j, j + 1)."""
    torch.manual_seed(0)
    models = {f"vit-{w}": tiny_vit(embed_dim=w, num_heads=h).eval() for w, h in ((12, 2), (32, 4))}
    example = noise(1, 1, 8, 8)
    anchors = [find_anchor(member, example) for member in Family.of(models)]
    configs = [StitchConfig(anchors=(i,)) for i in range(2)]
    configs += [
        StitchConfig(anchors=(0, 1), stage=0, routes=((0, j + 1), (q, 4)), stitch_layers=(j,))
        for j, q in ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3))
    ]
    return StitchableNetwork(anchors, example, configs).eval()


# --- the contract -------------------------------------------------------------------------------


class TestViT(ElasticContract):
    def inputs(self) -> Tensor:
        return noise(3, 1, 8, 8)

    def elastic(self) -> AdaptedNetwork:
        return adapted()

    def references(self) -> dict[int, nn.Module]:
        return dict(enumerate(tiny_vit_family().models))


class TestSwin(ElasticContract):
    def inputs(self) -> Tensor:
        return noise(3, 1, 16, 16)

    def elastic(self) -> AdaptedNetwork:
        torch.manual_seed(0)
        return adapt_stitchable(stitch(tiny_swin_family(), self.inputs())).eval()


# --- the card's figures -------------------------------------------------------------------------


def test_parameters_of_the_card() -> None:
    net = card_network()
    assert sum(p.numel() for p in net.parameters()) == 61_576 and net.num_configs == 9
    shared = adapt_stitchable(net, EstaSettings(rank=4, stitch_bias=False))
    assert shared.trainable_params == 5_388
    layers = [m for m in shared.modules() if isinstance(m, StitchSpecificLoRALinear)]
    dense = [StitchSpecificLoRALinear(layer.base, 4, 9) for layer in layers]
    biases = sum(p.numel() for layer in dense for p in layer.stitch_bias.parameters())
    assert biases == 7_488 and shared.trainable_params + biases == 12_876


def test_biases_are_stored_for_those_who_pass() -> None:
    net = adapt_stitchable(card_network(), EstaSettings(rank=4))
    wanted = 0
    for config in net.configs:  # 48 and 128 outputs of qkv and proj in a block, 32 of a stitch
        if not config.stitches:
            wanted += 4 * (48, 128)[config.anchors[0]]
        else:
            (_, stop), (start, _) = config.routes
            wanted += 48 * stop + 128 * (4 - start) + 32
    assert net.trainable_params == 5_388 + wanted < 12_876


# --- outputs ------------------------------------------------------------------------------------


def test_it_starts_as_the_stitched_network_bit_for_bit() -> None:
    before, net, inputs = stitched(), adapted(), noise(4, 1, 8, 8, seed=5)
    assert before.num_configs == net.num_configs == 11
    for index in range(11):
        before.set_config(index)
        net.set_config(index)
        assert torch.equal(before(inputs), net(inputs))
        assert net.flops(index) == before.flops(index)


def test_what_is_taken_out_is_plain_and_equal() -> None:
    net, inputs = trained(), noise(4, 1, 8, 8, seed=5)
    for index in range(net.num_configs):
        net.set_config(index)
        plain = net.extract(index).eval()
        assert not any(isinstance(m, StitchSpecificLoRALinear) for m in plain.modules())
        assert torch.allclose(plain(inputs), net(inputs), atol=1e-5)
        assert net.num_params(index) == sum(p.numel() for p in plain.parameters())


def test_a_bias_changes_no_other_configuration() -> None:
    net, inputs = trained(), noise(4, 1, 8, 8)

    def outputs() -> list[Tensor]:
        made = []
        for index in range(net.num_configs):
            net.set_config(index)
            made.append(net(inputs).detach())
        return made

    before = outputs()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(".stitch_bias.5"):
                parameter.add_(0.5)
    after = outputs()
    changed = [
        i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not torch.equal(a, b)
    ]
    assert changed == [5]
    with torch.no_grad():
        net.anchors[1].stages[0][1].attn.qkv.lora_b.add_(0.5)
    passing = [
        i
        for i, config in enumerate(net.configs)
        if config.anchors == (1,)
        or any(
            a == 1 and r[0] <= 1 < r[1] for a, r in zip(config.anchors, config.routes, strict=False)
        )
    ]
    moved = [
        i for i, (a, b) in enumerate(zip(after, outputs(), strict=True)) if not torch.equal(a, b)
    ]
    assert moved == passing


# --- what is trained ----------------------------------------------------------------------------


def step(net: AdaptedNetwork, index: int, optimizer: torch.optim.Optimizer | None = None) -> None:
    net.set_config(index)
    net(noise(8, 1, 8, 8, seed=index)).square().mean().backward()
    net.score_step()
    if optimizer:
        optimizer.step()
        optimizer.zero_grad()


def test_only_what_the_method_trains_is_trained() -> None:
    net = adapted()
    names = {n for n, p in net.named_parameters() if p.requires_grad}
    assert names and all(
        "lora_" in n or ".stitch_bias." in n or n.startswith(f"anchors.{n.split('.')[1]}.head.")
        for n in names
    )
    assert net.trainable_params == sum(dict(net.named_parameters())[n].numel() for n in names)
    frozen = {n for n, p in adapted(train_head=False).named_parameters() if p.requires_grad}
    assert frozen == {n for n in names if ".head." not in n}
    bases = {n for n in frozen if n.startswith("stitch_layers")}
    assert bases and all("lora_" in n or "stitch_bias" in n for n in bases)
    apart = adapted(stitch_layers=False)
    assert not any("lora" in n for n, _ in apart.stitch_layers.named_parameters())
    assert not any(p.requires_grad for p in apart.stitch_layers.parameters())


def test_inactive_biases_and_frozen_weights_are_bit_identical_after_steps() -> None:
    net = trained()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.5)
    for _ in range(3):
        step(net, 4, optimizer)
    changed = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert {n.rsplit(".", 1)[1] for n in changed if "stitch_bias" in n} == {"4"}
    assert not any("base" in n or "mlp" in n or "norm" in n for n in changed)


def test_names_without_weight_decay_are_the_biases() -> None:
    net = adapted()
    names = net.no_weight_decay()
    assert names == {n for n, _ in net.named_parameters() if "stitch_bias" in n} and names


def test_the_given_network_stays_and_lends_its_frozen_weights() -> None:
    net = stitched()
    kept = {n: p.detach().clone() for n, p in net.named_parameters()}
    one, two = (adapt_stitchable(net, EstaSettings(rank=2)) for _ in range(2))
    assert all(p.requires_grad for p in net.parameters())
    weight = "anchors.1.stages.0.0.mlp.fc1.weight"
    pointers = {dict(n.named_parameters())[weight].data_ptr() for n in (net, one, two)}
    assert len(pointers) == 1
    parameters = [p for p in one.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for index in (1, 4):
        step(one, index, optimizer)
    assert all(torch.equal(p, kept[n]) for n, p in net.named_parameters())
    two.set_config(4)
    net.set_config(4)
    inputs = noise(2, 1, 8, 8)
    assert torch.equal(two.eval()(inputs), net.eval()(inputs))


# --- the active configuration -------------------------------------------------------------------


def test_networks_and_copies_have_configurations_of_their_own() -> None:
    net, inputs = trained(), noise(2, 1, 8, 8)
    other = copy.deepcopy(net)
    wanted = {}
    for index in (4, 7):
        net.set_config(index)
        wanted[index] = net(inputs)
    net.set_config(4)
    other.set_config(7)
    assert torch.equal(net(inputs), wanted[4]) and torch.equal(other(inputs), wanted[7])
    net.set_config(7)
    other.set_config(4)
    assert torch.equal(net(inputs), wanted[7]) and torch.equal(other(inputs), wanted[4])


def test_a_sampled_configuration_brings_its_biases() -> None:
    net, inputs = trained(), noise(2, 1, 8, 8)
    index = net.sample_config(torch.Generator().manual_seed(1))
    sampled = net(inputs)
    net.set_config((index + 1) % net.num_configs)
    net.set_config(index)
    assert torch.equal(net(inputs), sampled)


# --- importance ---------------------------------------------------------------------------------


def test_a_resumed_training_goes_on_identically() -> None:
    def run(net: AdaptedNetwork, optimizer: torch.optim.Optimizer, steps: range) -> list[int]:
        flops = [net.flops(i) for i in range(net.num_configs)]
        drawn = []
        for number in steps:
            drawn.append(ImportanceSampler(net.importance, flops).draw(number))
            step(net, drawn[-1], optimizer)
        return drawn

    def start() -> tuple[AdaptedNetwork, torch.optim.Optimizer]:
        net = adapted(warmup_visits=1)
        return net, torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)

    whole, optimizer = start()
    drawn = run(whole, optimizer, range(40))
    first, optimizer = start()
    head = run(first, optimizer, range(30))
    second, optimizer = start()
    second.load_state_dict(first.state_dict())
    assert head + run(second, optimizer, range(30, 40)) == drawn
    state = second.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.state_dict().items())


def test_deployment_keeps_the_anchors_and_the_best_of_each_interval() -> None:
    net = trained(warmup_visits=0)
    with pytest.raises(RecipeError, match="no score yet"):
        net.select()
    for index in range(net.num_configs):
        step(net, index)
    kept, scores = net.select(num_intervals=3), net.importance.scores()
    assert {0, 1, 2} < set(kept) and kept == sorted(kept, key=net.flops)
    flops = [net.flops(i) for i in range(net.num_configs)]
    low, high = min(flops), max(flops)
    for i in range(3, net.num_configs):
        peers = [
            j
            for j in range(3, net.num_configs)
            if min(3 * (flops[j] - low) // (high - low), 2)
            == min(3 * (flops[i] - low) // (high - low), 2)
        ]
        assert (i in kept) == (scores[i] == max(scores[j] for j in peers))


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, -2])
def test_a_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(RecipeError, match=f"at least 1, got {rank}"):
        EstaSettings(rank=rank)


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"anchors.0.stages.0.0.attn.qkv .* 1 to 8 .* got 9"):
        adapt_stitchable(stitched(), EstaSettings(rank=9))


@pytest.mark.parametrize("index", [-1, 11])
def test_a_configuration_out_of_range_is_refused(index: int) -> None:
    net = trained()
    net.set_config(4)
    for verb in (net.set_config, net.extract, net.num_params, net.flops):
        with pytest.raises(FamilyError, match=f"no configuration {index}; choose among 0 to 10"):
            verb(index)
    assert net._active.index == 4 and isinstance(net, Elastic)


def test_targets_that_match_nothing_are_refused() -> None:
    with pytest.raises(NoEffectError, match=r"called 'attn.query'.* attn.qkv, attn.proj, mlp.fc1"):
        adapt_stitchable(stitched(), EstaSettings(rank=2, target_modules=("attn.query",)))
    net = stitch(tiny_resnet_family(), noise(1, 1, 32, 32))
    with pytest.raises(NoEffectError, match=r"'attn.qkv'; the linear layers .* none at all"):
        adapt_stitchable(net)
    with pytest.raises(RecipeError, match=r"the text 'attn.qkv'; write \('attn.qkv',\)"):
        EstaSettings(target_modules="attn.qkv")  # type: ignore[arg-type]


def test_layers_that_are_not_linear_are_refused() -> None:
    with pytest.raises(FamilyError, match="attn is a Attention; give other target_modules"):
        adapt_stitchable(stitched(), EstaSettings(rank=2, target_modules=("attn",)))
    net = stitch(tiny_resnet_family(), noise(1, 1, 32, 32))
    with pytest.raises(FamilyError, match=r"adapts linear layers, but .*conv1 is a Conv2d"):
        adapt_stitchable(net, EstaSettings(rank=2, target_modules=("conv1",)))


def test_tied_weights_are_refused() -> None:
    family = tiny_vit_family()
    blocks = family.models[0].blocks
    blocks[1].attn.qkv.weight = blocks[0].attn.qkv.weight
    net = stitch(family, noise(1, 1, 8, 8))
    with pytest.raises(
        FamilyError, match=r"stages.0.0.attn.qkv and .*stages.0.1.attn.qkv are tied"
    ):
        adapt_stitchable(net, EstaSettings(rank=2))
    assert adapt_stitchable(net, EstaSettings(rank=2, target_modules=("attn.proj",)))
