import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from sartor.core import Elastic, Family, FamilyError, Member, Split
from sartor.core.modes import eval_mode
from sartor.nn import tiny_vit
from sartor.stitch import (
    StitchableNetwork,
    StitchSettings,
    draw_config,
    find_anchor,
    least_squares_affine,
    stitch,
)
from sartor.stitch.features import trace
from sartor.testing import (
    TINY_CONV_SPLIT,
    ElasticContract,
    TinyConvNet,
    tiny_conv_family,
    tiny_resnet_family,
    tiny_swin_family,
    tiny_vit_family,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the contract, for every kind of family
# --------------------------------------------------------


class StitchedContract(ElasticContract):
    family: Callable[[], Family]
    shape: tuple[int, ...]

    def inputs(self) -> Tensor:
        return noise(3, *self.shape)

    def elastic(self) -> StitchableNetwork:
        torch.manual_seed(0)
        return stitch(type(self).family(), self.inputs())

    def references(self) -> dict[int, nn.Module]:
        return dict(enumerate(type(self).family().models))


class TestViT(StitchedContract):
    family = staticmethod(tiny_vit_family)
    shape = (1, 8, 8)


class TestSwin(StitchedContract):
    family = staticmethod(tiny_swin_family)
    shape = (1, 16, 16)


class TestResNet(StitchedContract):
    family = staticmethod(tiny_resnet_family)
    shape = (1, 32, 32)


class TestSplit(StitchedContract):
    family = staticmethod(tiny_conv_family)
    shape = (1, 8, 8)


# --- what is joined
# ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    family: Callable[[], Family]
    inputs: tuple[int, ...]
    configs: int
    layout: str


SHAPES = (
    Shape(tiny_vit_family, (1, 8, 8), 3 + 4 + 4, "last"),
    Shape(tiny_swin_family, (1, 16, 16), 3 + (1 + 1 + 3) + (1 + 1 + 3), "last"),
    Shape(tiny_resnet_family, (1, 32, 32), 10, "first"),
    Shape(tiny_conv_family, (1, 8, 8), 2 + 7, "first"),
)


@pytest.mark.parametrize("row", SHAPES, ids=lambda row: row.family.__name__)
def test_families_stitch_stage_by_stage(row: Shape) -> None:
    net = stitch(row.family(), noise(2, *row.inputs))
    assert net.num_configs == row.configs and net.layout == row.layout
    kind = nn.Conv2d if row.layout == "first" else nn.Linear
    assert all(type(layer) is kind for layer in net.stitch_layers.values())
    assert len({config.name for config in net.configs}) == row.configs


def test_convnext_is_recognised_as_channels_first() -> None:
    convnext = pytest.importorskip("timm.models.convnext").ConvNeXt
    models = {
        f"depth-{d}": convnext(in_chans=1, num_classes=4, depths=(1, 2, d, 1), dims=(4, 8, 8, 8))
        for d in (2, 4)
    }
    net = stitch(Family.of({k: m.eval() for k, m in models.items()}), noise(1, 1, 32, 32))
    assert net.layout == "first" and net.num_configs == 2 + 1 + 3


def test_the_family_stays_as_it_was() -> None:
    family = tiny_vit_family()
    family.models[0].train()
    before = copy.deepcopy([m.state_dict() for m in family.models])
    net = stitch(family, noise(1, 1, 8, 8))
    net.init_stitches(noise(20, 1, 8, 8))
    for parameter in net.parameters():
        parameter.data.zero_()
    for model, state in zip(family.models, before, strict=True):
        assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
        assert not any(p.is_meta or p.grad is not None for p in model.parameters())
    assert family.models[0].training and not net.training


def test_a_route_equals_its_parts_composed_by_hand_with_the_end_anchors_norm() -> None:
    family = tiny_vit_family(depth=3)
    inputs = noise(4, 1, 8, 8)
    net = stitch(family, inputs)
    net.init_stitches(noise(40, 1, 8, 8, seed=1))
    small, _, large = family.models
    index = next(i for i, c in enumerate(net.configs) if c.name == "a1-2.s0.1-2")
    middle = family.models[1]
    with torch.no_grad():
        x = middle.blocks[1](
            middle.blocks[0](
                middle.norm_pre(middle.patch_drop(middle._pos_embed(middle.patch_embed(inputs))))
            )
        )
        x = net.stitch_layers["a1-2_s0_n1"](x)
        x = large.blocks[2](x)
        by_hand = large.head(large.fc_norm(large.norm(x)[:, 0]))
        without_norm = large.head(large.fc_norm(x[:, 0]))
        net.set_config(index)
        torch.testing.assert_close(net(inputs), by_hand, atol=1e-6, rtol=1e-6)
        assert not torch.allclose(net(inputs), without_norm, atol=1e-2)
    assert small is not net.anchors[0]


def test_stitching_an_anchor_to_itself_reproduces_its_logits() -> None:
    model = tiny_vit_family(depth=4).models[1]
    net = stitch(Family.of({"a": model, "b": copy.deepcopy(model)}), noise(1, 1, 8, 8))
    net.init_stitches(noise(60, 1, 8, 8, seed=2))
    inputs = noise(8, 1, 8, 8, seed=3)
    following = [
        i
        for i, c in enumerate(net.configs)
        if c.stitches and c.stitches[0].q == c.stitches[0].j + 1
    ]
    assert len(following) == 3
    traces = [trace(anchor, noise(60, 1, 8, 8, seed=2)) for anchor in net.anchors]
    for index in following:  # each pair's own map, as its layer has the mean of a window's maps
        (pair,) = net.configs[index].stitches
        weight, bias = least_squares_affine(traces[0][0, pair.j][1], traces[1][0, pair.q][0])
        with torch.no_grad():
            net.stitch_layers[pair.key].weight.copy_(weight)
            net.stitch_layers[pair.key].bias.copy_(bias)
            net.set_config(index)
            torch.testing.assert_close(net(inputs), model(inputs), atol=1e-4, rtol=1e-4)


def test_unpaired_self_stitch_by_init_stitches_alone() -> None:
    """Depths 1 and 2: the only stitch is (0, 1), and its layer is shared with none."""
    deep = tiny_vit_family(depth=2).models[1]
    shallow = copy.deepcopy(deep)
    shallow.blocks = shallow.blocks[:1]
    net = stitch(Family.of({"shallow": shallow, "deep": deep}), noise(1, 1, 8, 8))
    assert [c.name for c in net.configs] == ["a0", "a1", "a0-1.s0.0-1"]
    net.init_stitches(noise(60, 1, 8, 8, seed=2))
    inputs = noise(8, 1, 8, 8, seed=3)
    net.set_config(2)
    with torch.no_grad():
        torch.testing.assert_close(net(inputs), deep(inputs), atol=1e-4, rtol=1e-4)


def test_shared_layers_get_the_mean_of_the_maps() -> None:
    net = stitch(tiny_vit_family(), noise(1, 1, 8, 8))
    batch = noise(30, 1, 8, 8, seed=4)
    net.init_stitches(batch)
    fronts, ends = trace(net.anchors[0], batch), trace(net.anchors[1], batch)
    maps = [least_squares_affine(fronts[0, j][1], ends[0, q][0])[0] for j in (0, 1) for q in (0, 1)]
    wanted = torch.stack(maps).mean(0)
    torch.testing.assert_close(net.stitch_layers["a0-1_s0_n0"].weight, wanted, atol=1e-4, rtol=1e-4)


def test_three_anchors_in_one_route() -> None:
    net = stitch(tiny_vit_family(), noise(1, 1, 8, 8), StitchSettings(nearest=False, kernel_size=1))
    triple = next(i for i, c in enumerate(net.configs) if c.anchors == (0, 1, 2))
    assert len(net.configs[triple].stitches) == 2
    plain, inputs = net.extract(triple), noise(2, 1, 8, 8)
    net.set_config(triple)
    assert torch.equal(plain(inputs), net(inputs))


# --- training
# ---------------------------------------------------------------------------------------


def test_batch_norm_is_frozen_in_training() -> None:
    net = stitch(tiny_resnet_family(), noise(1, 1, 32, 32))
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    net.train()
    assert net.training and before
    net(noise(4, 1, 32, 32)).sum().backward()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    with eval_mode(net):
        assert not net.training
    assert net.training and not any(m.training for m in norms)


def test_gradients_reach_the_route_and_nothing_else() -> None:
    net = stitch(tiny_vit_family(), noise(1, 1, 8, 8)).train()
    net.set_config(5)
    net(noise(2, 1, 8, 8)).sum().backward()
    used = {id(p) for p in nn.ModuleList(net._routes[5]).parameters()}
    assert all((p.grad is not None) == (id(p) in used) for p in net.parameters())


def test_sampling_is_uniform_and_seeded() -> None:
    net = stitch(tiny_vit_family(), noise(1, 1, 8, 8))
    first = [net.sample_config(torch.Generator().manual_seed(s)) for s in range(300)]
    assert first == [net.sample_config(torch.Generator().manual_seed(s)) for s in range(300)]
    assert set(first) == set(range(net.num_configs))
    drawn = [draw_config(0, step, 11) for step in range(3300)]
    counts = [drawn.count(i) for i in range(11)]
    assert min(counts) > 240 and max(counts) < 360
    assert drawn != [draw_config(1, step, 11) for step in range(3300)]


# --- refusals
# ---------------------------------------------------------------------------------------


def test_an_index_out_of_range_is_refused_everywhere() -> None:
    net = stitch(tiny_vit_family(), noise(1, 1, 8, 8))
    assert isinstance(net, Elastic) and net.num_configs == 11
    for verb in (net.set_config, net.extract, net.flops, net.num_params):
        for index in (-1, 11):
            with pytest.raises(
                FamilyError, match=f"no configuration {index}; choose among 0 to 10"
            ):
                verb(index)


def test_unequal_stages_are_refused() -> None:
    swin, vit = tiny_swin_family().models[0], tiny_vit(img_size=16, patch_size=1, num_classes=4)
    with pytest.raises(FamilyError, match="have 1, 4 stages"):
        stitch(Family.of({"vit": vit, "swin": swin}), noise(1, 1, 16, 16))


def test_mixed_layouts_are_refused() -> None:
    conv = Member(name="conv", model=TinyConvNet(8, 2, 10), split=TINY_CONV_SPLIT)
    vit = Member(name="vit", model=tiny_vit(depth=2))
    with pytest.raises(FamilyError, match=r"mix channels-first and channels-last.*one kind"):
        stitch(Family((conv, vit)), noise(1, 1, 8, 8))


def test_features_of_other_sizes_are_refused() -> None:
    models = {f"patch-{p}": tiny_vit(patch_size=p, depth=2).eval() for p in (4, 2)}
    with pytest.raises(FamilyError, match="No block of patch-4, patch-2 can hand over"):
        stitch(Family.of(models), noise(1, 1, 8, 8))


def test_models_without_visible_blocks_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(FamilyError, match=r"'flat' \(Sequential\) has no blocks.*Split\(blocks"):
        stitch(Family.of({"flat": model}), noise(1, 1, 8, 8))


@dataclass(frozen=True)
class Wrong:
    split: Split
    message: str


WRONG = (
    Wrong(Split(blocks=("layers",), embed="stem", head=("pool",)), "no module or method 'layers'"),
    Wrong(Split(blocks=("body",), embed="stam", head=("pool",)), "no module or method 'stam'"),
    Wrong(
        Split(blocks=("body",), embed="stem", head=("pool", "x.y")), "'x.y'.*stem, body, classifier"
    ),
    Wrong(Split(blocks=("body",), embed="stem", head=("pool",)), "gives other outputs"),
    Wrong(
        Split(blocks=("pool",), embed="stem", head=("classifier",)), "no module or method 'pool'"
    ),
    Wrong(Split(blocks=("body",), embed="stem", head=("classifier",)), "do not run one by one"),
    Wrong(Split(blocks=("body",), head=("classifier",)), "do not run one by one|other outputs"),
)


@pytest.mark.parametrize("row", WRONG, ids=lambda row: row.message[:24])
def test_wrong_splits_are_refused(row: Wrong) -> None:
    member = Member(name="conv", model=TinyConvNet(8, 2), split=row.split)
    with pytest.raises(FamilyError, match=row.message):
        find_anchor(member, torch.zeros(1, 1, 8, 8))


def test_inputs_of_another_size_are_refused() -> None:
    with pytest.raises(FamilyError, match=r"does not take inputs \(1, 1, 9, 9\)"):
        stitch(tiny_vit_family(), noise(1, 1, 9, 9))


def test_a_zero_example_does_not_hide_a_wrong_split() -> None:
    model = TinyConvNet(8, 2)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.zeros_(module.bias)
    member = Member(
        name="conv", model=model, split=Split(blocks=("body",), embed="stem", head=("pool",))
    )
    model.classifier = nn.Linear(8, 8, bias=False)
    with pytest.raises(FamilyError, match="gives other outputs"):
        find_anchor(member, torch.zeros(1, 1, 8, 8))


# --- splits
# -----------------------------------------------------------------------------------------


def test_a_method_brings_no_second_copy_of_the_blocks() -> None:
    net = stitch(tiny_conv_family(), noise(1, 1, 8, 8))
    small = tiny_conv_family().models[0]
    assert net.num_params(0) == sum(p.numel() for p in small.parameters())
    plain = net.extract(0)
    assert sum(p.numel() for p in plain.parameters()) == net.num_params(0)


def test_an_extracted_route_can_be_stitched_again() -> None:
    net = stitch(tiny_vit_family(), noise(1, 1, 8, 8))
    first, second = net.extract(4), net.extract(8)
    again = stitch(Family.of({"first": first, "second": second}), noise(1, 1, 8, 8))
    inputs = noise(2, 1, 8, 8)
    assert again.num_configs > 2 and torch.equal(again(inputs), first(inputs))


def test_blocks_within_a_nested_module() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 8)
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for layer in self.layers:
                x = layer(x)
            return x

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = Inner(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x))

    model = Outer()
    split = Split(blocks=("encoder.layers",), head=("head",))
    anchor = find_anchor(Member(name="outer", model=model, split=split), torch.zeros(1, 4))
    inputs = noise(5, 4)
    assert anchor.depths == (2,) and torch.equal(anchor(inputs), model(inputs))
    assert len(model.encoder.layers) == 2 and isinstance(model.head, nn.Linear)
