import copy

import pytest
import torch
from torch import Tensor, nn

from sartor.core import Family, FamilyError
from sartor.nn import tiny_vit
from sartor.nn.sources import seeded
from sartor.stitch import StitchableNetwork, least_squares_affine
from sartor.stitch.features import trace
from sartor.stitch.low_rank import LowRankStitch
from sartor.stitch.sn_netv2 import (
    TwoWayNetwork,
    TwoWaySettings,
    flops_sampler,
    stitch_two_way,
)
from sartor.testing import ElasticContract, tiny_conv_family, tiny_swin_family, tiny_vit_family

TOKENS = 197


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(depths: tuple[int, int] = (2, 4), widths: tuple[int, int] = (8, 16)) -> Family:
    with seeded(0):
        return Family.of(
            {
                name: tiny_vit(embed_dim=w, depth=d, num_heads=2).eval()
                for name, w, d in zip("sl", widths, depths, strict=True)
            }
        )


def made(depths: tuple[int, int] = (2, 4), **settings: object) -> TwoWayNetwork:
    with seeded(1):
        return stitch_two_way(
            pair(depths), noise(1, 1, 8, 8), TwoWaySettings(**{"rank": 2, **settings})
        )


# --- the contract -------------------------------------------------------------------------------


class TwoWayContract(ElasticContract):
    settings: TwoWaySettings

    def inputs(self) -> Tensor:
        return noise(3, 1, 8, 8)

    def elastic(self) -> StitchableNetwork:
        with seeded(1):
            net = stitch_two_way(pair(), self.inputs(), type(self).settings)
            for layer in net.stitch_layers.values():
                if isinstance(layer, LowRankStitch):
                    nn.init.normal_(layer.lora_B)
        return net.eval()

    def references(self) -> dict[int, nn.Module]:
        return dict(enumerate(pair().models))


class TestLowRank(TwoWayContract):
    settings = TwoWaySettings(rank=2)


class TestFullRank(TwoWayContract):
    settings = TwoWaySettings(rank=0)


class TestDense(TwoWayContract):
    settings = TwoWaySettings(rank=2, dense=True)


# --- routes and layers --------------------------------------------------------------------------


def test_three_segments_composed_by_hand() -> None:
    net, inputs = made((3, 6), rank=0), noise(4, 1, 8, 8)
    net.init_stitches(noise(40, 1, 8, 8, seed=1))
    small, large = pair((3, 6)).models
    index = next(i for i, c in enumerate(net.configs) if c.anchors == (0, 1, 0))
    assert net.configs[index].routes == ((0, 1), (2, 4), (2, 3))
    with torch.no_grad():
        x = small.norm_pre(small.patch_drop(small._pos_embed(small.patch_embed(inputs))))
        x = net.stitch_layers["a0-1_s0_n0"](small.blocks[0](x))
        x = net.stitch_layers["a1-0_s0_n1"](large.blocks[3](large.blocks[2](x)))
        by_hand = small.head(small.fc_norm(small.norm(small.blocks[2](x))[:, 0]))
        net.set_config(index)
        torch.testing.assert_close(net(inputs), by_hand, atol=1e-6, rtol=1e-6)


def test_every_layer_is_the_least_squares_map_of_its_own_position() -> None:
    batch, net = noise(60, 1, 8, 8, seed=2), made((3, 6), dense=True)
    net.init_stitches(batch)
    small, large = (trace(anchor, batch) for anchor in net.anchors)
    wanted = {
        **{f"a0-1_s0_n{i}": (small[0, i][1], large[0, 2 * i + 1][1]) for i in range(3)},
        **{f"a1-0_s0_n{i}": (large[0, 2 * i + 1][1], small[0, i][1]) for i in range(2)},
    }
    assert set(net.stitch_layers) == set(wanted)
    for key, (x, y) in wanted.items():
        weight, bias = least_squares_affine(x, y)
        layer = net.stitch_layers[key]
        torch.testing.assert_close(layer.weight, weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.bias, bias, atol=1e-5, rtol=1e-4)
        # in eval mode, in which the network is, the merged weight is the new one too
        torch.testing.assert_close(layer(x), x @ weight.T + bias, atol=1e-4, rtol=1e-4)
    assert not net.training and not any(m.training for m in net.modules())


def test_equal_anchors_reproduce_their_logits_on_every_route() -> None:
    model = tiny_vit_family(depth=4).models[1]
    family = Family.of({"a": model, "b": copy.deepcopy(model)})
    net = stitch_two_way(family, noise(1, 1, 8, 8), TwoWaySettings(rank=2))
    net.init_stitches(noise(60, 1, 8, 8, seed=2))
    inputs = noise(8, 1, 8, 8, seed=3)
    with torch.no_grad():
        wanted = model(inputs)
        for index in range(net.num_configs):
            net.set_config(index)
            torch.testing.assert_close(net(inputs), wanted, atol=1e-4, rtol=1e-4)
    assert net.num_configs == 14


def test_the_ends_of_the_cost_are_the_anchors() -> None:
    net = made((4, 8))
    flops = [net.flops(i) for i in range(net.num_configs)]
    assert min(flops) == flops[0] and max(flops) == flops[1]
    assert all(flops[0] < f < flops[1] for f in flops[2:])
    assert [made((4, 8)).to("meta").flops(i) for i in (0, 3)] == [flops[0], flops[3]]


def test_the_frozen_maps_are_left_out_of_training() -> None:
    net = made().train()
    net.init_stitches(noise(30, 1, 8, 8))
    trained = [name for name, p in net.named_parameters() if p.requires_grad]
    assert not [name for name in trained if "base_layer.weight" in name]
    assert all(p.requires_grad for p in net.anchors.parameters())
    frozen = {key: layer.weight.clone() for key, layer in net.stitch_layers.items()}
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.01)
    for index in range(net.num_configs):
        net.set_config(index)
        net(noise(4, 1, 8, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    net.eval()
    assert all(torch.equal(layer.weight, frozen[k]) for k, layer in net.stitch_layers.items())
    assert all(bool(layer.lora_B.any()) for layer in net.stitch_layers.values())


def test_a_checkpoint_of_eval_mode_is_the_one_of_train_mode() -> None:
    net = made()
    for layer in net.stitch_layers.values():
        nn.init.normal_(layer.lora_B)
    merged = {k: v.clone() for k, v in net.eval().state_dict().items()}
    unmerged = net.train().state_dict()
    assert merged.keys() == unmerged.keys()
    assert all(torch.equal(merged[k], v) for k, v in unmerged.items())
    other = made()
    other.load_state_dict(merged)
    inputs = noise(2, 1, 8, 8)
    net.eval()
    for index in range(net.num_configs):
        net.set_config(index)
        other.set_config(index)
        assert torch.equal(net(inputs), other(inputs))


def test_stitching_parameters_of_the_digits_family() -> None:
    """Depth 4, widths 12 and 32: the card's 2,436 and, with rank 4, 1,188."""
    for rank, count in ((0, 2436), (4, 1188)):
        net = stitch_two_way(pair((4, 4), (12, 32)), noise(1, 1, 8, 8), TwoWaySettings(rank=rank))
        trained = [p for p in net.stitch_layers.parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == count
        groups = flops_sampler(net).groups
        assert [len(group) for group in groups] == [1, 4, 4, 4, 1]


# --- the published net, on the meta device ------------------------------------------------------


@pytest.fixture(scope="module")
def deit3() -> TwoWayNetwork:
    timm = pytest.importorskip("timm")
    names = ("deit3_small_patch16_224", "deit3_large_patch16_224")
    with torch.device("meta"):
        family = Family.of({name: timm.create_model(name).eval() for name in names})
    example = torch.zeros(1, 3, 224, 224, device="meta")
    return stitch_two_way(family, example, TwoWaySettings(rank=64, dense=True))


def published_flops(net: TwoWayNetwork, index: int) -> float:
    """Multiply-accumulates, and 5 for each element that a layer norm takes."""
    norms = sum(
        5 * TOKENS * module.normalized_shape[0]
        for module in net.extract(index).modules()
        if isinstance(module, nn.LayerNorm)
    )
    return net.flops(index) / 2 + norms


def test_published_flops(deit3: TwoWayNetwork) -> None:
    # from number 13 on, which is left out, one less than published
    wanted = {
        0: 4_608_338_304,
        1: 61_604_135_936,
        2: 56_843_745_792,
        3: 52_102_230_016,
        13: 9_523_655_552,
        133: 9_504_781_184,
    }
    assert deit3.num_configs == 134
    assert {index: published_flops(deit3, index) for index in wanted} == wanted


def test_published_parameters(deit3: TwoWayNetwork) -> None:
    layers = deit3.stitch_layers
    named = dict(layers.named_parameters())
    whole = sum(p.numel() for name, p in named.items() if "base_layer" in name)
    factors = sum(p.numel() for name, p in named.items() if "lora" in name)
    assert len(layers) == 23 and (whole, factors) == (9_060_480, 2_072_576)


def test_groups_of_the_published_net(deit3: TwoWayNetwork) -> None:
    sampler = flops_sampler(deit3, gap=2e9)  # 1 GFLOP of multiply-accumulates
    assert [len(group) for group in sampler.groups] == [1, *[12] * 11, 1]


# --- dense features -----------------------------------------------------------------------------


def test_features_of_the_large_anchor_are_timms() -> None:
    net, inputs = made(dense=True), noise(2, 1, 8, 8)
    net.set_config(1)
    large = pair().models[1]
    wanted = large.forward_intermediates(inputs, indices=[1, 3], intermediates_only=True)
    found = net.forward_features(inputs, (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_features_of_the_small_anchor_go_through_its_layers() -> None:
    net, inputs = made(dense=True), noise(2, 1, 8, 8)
    net.init_stitches(noise(30, 1, 8, 8, seed=1))
    net.set_config(0)
    found = net.forward_features(inputs, (1, 3))
    blocks = trace(net.anchors[0], inputs)
    for number, features in enumerate(found):
        tokens = net.stitch_layers[f"a0-1_s0_n{number}"](blocks[0, number][1])
        by_hand = tokens[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4)
        torch.testing.assert_close(features, by_hand, atol=1e-6, rtol=0)


def test_features_have_one_shape_on_every_route() -> None:
    net, inputs = made((3, 6), dense=True), noise(2, 1, 8, 8)
    for index in range(net.num_configs):
        net.set_config(index)
        features = net.forward_features(inputs, (0, 3, 5))
        assert [tuple(f.shape) for f in features] == [(2, 16, 4, 4)] * 3


def test_features_need_their_layers() -> None:
    inputs = noise(1, 1, 8, 8)
    for settings in ({}, {"kinds": ("ls",), "dense": True}):
        net = made((3, 6), **settings)
        net.set_config(0)
        with pytest.raises(FamilyError, match=r"dense=True\) and with the kind 'sl'"):
            net.forward_features(inputs, (0, 5))
    with pytest.raises(FamilyError, match="increasing"):
        made(dense=True).forward_features(inputs, (3, 1))


# --- sampling -----------------------------------------------------------------------------------


def test_the_gap_is_an_eighth_of_the_range_or_given() -> None:
    net = made((4, 4))
    flops = [net.flops(i) for i in range(net.num_configs)]
    for gap, groups in (
        (None, flops_sampler(net, gap=(flops[1] - flops[0]) / 8).groups),
        (1e12, [sorted(range(14), key=lambda i: (flops[i], i))]),
    ):
        assert flops_sampler(net, gap=gap).groups == groups
    assert flops_sampler(net, seed=5)(3) in range(14)
    with pytest.raises(FamilyError, match="above 0, got 0"):
        flops_sampler(net, gap=0)


def test_costs_follow_the_size_of_the_inputs() -> None:
    families = [
        Family.of(
            {f"vit-{w}": tiny_vit(embed_dim=w, depth=2, num_heads=2, img_size=s) for w in (8, 16)}
        )
        for s in (8, 16)
    ]
    small, large = (
        stitch_two_way(f, noise(1, 1, s, s), TwoWaySettings(rank=2))
        for f, s in zip(families, (8, 16), strict=True)
    )
    assert all(large.flops(i) > 3.9 * small.flops(i) for i in range(small.num_configs))


# --- refusals -----------------------------------------------------------------------------------


def test_three_models_need_to_be_told_which() -> None:
    family, example = tiny_vit_family(), noise(1, 1, 8, 8)
    with pytest.raises(FamilyError, match=r"family has 3; name two of them .* anchors=\(0, -1\)"):
        stitch_two_way(family, example)
    net = stitch_two_way(family, example, TwoWaySettings(anchors=(0, -1)))
    assert [anchor.name for anchor in net.anchors] == ["vit-8", "vit-32"]
    with pytest.raises(FamilyError, match="family has 1;"):
        stitch_two_way(Family(family.members[:1]), example)


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ((0, 3), "has 3 models and anchors="),
        ((-4, 1), "has 3 models"),
        ((1, 1), "a smaller model and then a larger one"),
        ((2, 0), "a smaller model and then a larger one"),
    ],
)
def test_illegal_pairs(anchors: tuple[int, int], message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        stitch_two_way(tiny_vit_family(), noise(1, 1, 8, 8), TwoWaySettings(anchors=anchors))


def test_depths_that_are_no_multiples() -> None:
    with pytest.raises(FamilyError, match="2 and 3 are no multiples"):
        made((2, 3))
    net = made((2, 3), on_mismatch="adjust")
    inputs = noise(2, 1, 8, 8)
    for index in range(net.num_configs):
        net.set_config(index)
        assert torch.equal(net.extract(index)(inputs), net(inputs))


def test_ranks() -> None:
    with pytest.raises(FamilyError, match="rank must be at least 0, got -1"):
        TwoWaySettings(rank=-1)
    with pytest.warns(UserWarning, match=r"rank 8 is as large as a map between \d+ and \d+ ch"):
        made(rank=8)
    assert all(type(layer) is nn.Linear for layer in made(rank=0).stitch_layers.values())


def test_hierarchical_families_are_refused() -> None:
    with pytest.raises(FamilyError, match=r"'swin-8' has 4 stages.*stitch this family with sn-net"):
        stitch_two_way(tiny_swin_family(), noise(1, 1, 16, 16), TwoWaySettings(anchors=(0, 1)))


def test_maps_stitch_with_layers_of_full_rank() -> None:
    family, example = tiny_conv_family(), noise(2, 1, 8, 8)
    with pytest.raises(FamilyError, match="channels-first features; set rank=0"):
        stitch_two_way(family, example)
    net = stitch_two_way(family, example, TwoWaySettings(rank=0, dense=True))
    assert net.num_configs == 2 + 2 + 2 + 1 + 1
    with pytest.raises(FamilyError, match="dense taps need a plain ViT"):
        net.forward_features(example, (0, 2))


def test_other_grids_are_refused() -> None:
    models = {f"patch-{p}": tiny_vit(patch_size=p, depth=2).eval() for p in (4, 2)}
    with pytest.raises(FamilyError, match="No block of patch-4, patch-2 can hand over"):
        stitch_two_way(Family.of(models), noise(1, 1, 8, 8))
