import copy
import json

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.compress.spvit import SPViTConfig, compact_, estimate_norms_, prune_attention_
from sartor.compress.spvit_cost import branch_macs, cost_bounds, transformer_blocks
from sartor.compress.spvit_search import Architecture, SinglePathSearch
from sartor.core import DataError, FamilyError, NoEffectError, RecipeError
from sartor.nn import tiny_vit
from sartor.stitch import stitch
from sartor.testing import tiny_swin_family, tiny_task, tiny_vit_family

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
FOUND = Architecture(kinds=("conv3x3", "skip", "conv1x1"), units=((0, 5, 9), (), (3,)))


def model() -> nn.Module:
    torch.manual_seed(0)
    return tiny_vit(embed_dim=24, depth=3, num_heads=4).eval()


def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def test_counts_of_the_card() -> None:
    with torch.device("meta"):
        deit = timm.create_model("deit_tiny_patch16_224")
    assert cost_bounds(deit)[1] == 1_251_052_032
    assert 12 * branch_macs(192, 3, 196, 197)[2] == 527_417_856
    search = SinglePathSearch(timm.create_model("deit_tiny_patch16_224"), 1e9, lam=20.0)
    assert sum(p.numel() for p in search.parameters()) == 5_730_064
    assert sum(p.numel() for p in search.arch_parameters()) == 9_252
    assert sum(b.attn.head_probs.numel() for b in search.model.blocks) == 324
    assert float(search.macs().detach()) == 1_251_052_032
    assert float(search.complexity_loss().detach()) == pytest.approx(1.260542, abs=1e-6)
    names = {id(p) for p in (*search.arch_parameters(), *search.weight_parameters())}
    assert len(names) == len(list(search.parameters()))


@pytest.mark.parametrize("heads", [3, 6, 12])
def test_kinds_are_sorted_by_cost(heads: int) -> None:
    low, middle, high = branch_macs(64 * heads, heads, 196, 197)
    assert low < middle < high


def test_the_derived_net_gives_what_the_search_gave() -> None:
    search = SinglePathSearch(model(), 0.6 * cost_bounds(model())[1], lam_rel=20.0)
    search.choose(FOUND)
    assert search.architecture() == FOUND
    estimate_norms_(search, IMAGES)
    compact = compact_(copy.deepcopy(search.model), FOUND).eval()
    search.eval()
    with torch.no_grad():
        assert (compact(IMAGES) - search(IMAGES)).abs().max() < 1e-4
        assert search(IMAGES).std() > 0


def test_the_penalty_opens_and_closes_gates() -> None:
    search = SinglePathSearch(model(), 0.6 * cost_bounds(model())[1], lam_rel=20.0)
    search.complexity_loss().backward()
    assert all((p.grad > 0).all() for p in search.arch_parameters() if p.grad is not None)
    search.zero_grad()
    search.choose(FOUND)
    assert search.macs() < search.target_macs
    search.complexity_loss().backward()
    units = search.model.blocks[0].mlp.thresholds
    assert units.grad is not None and (units.grad < 0).all()


def test_the_cut_meets_the_target() -> None:
    search = SinglePathSearch(model(), 0.6 * cost_bounds(model())[1], lam_rel=20.0)
    with torch.no_grad():
        for i, block in enumerate(search.model.blocks):
            block.mlp.thresholds.copy_(torch.linspace(-1, 1, 96) + i)
    search.model.blocks[0].attn.choose("conv3x3")
    found = search.meet_target_()
    unit = 2 * search.patches * 24
    left = search.target_macs - float(search.macs().detach())
    assert 0 <= left < unit
    assert found == search.architecture() and found.kinds[0] == "conv3x3"
    sizes = [len(units) for units in found.units]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
    assert all(units == tuple(range(96 - len(units), 96)) for units in found.units)


def test_a_search_changes_the_model() -> None:
    task, pruned = tiny_task(), model()
    config = SPViTConfig(steps=20, arch_lr=0.2, lam_rel=100.0)
    report, found = prune_attention_(pruned, task.train, loss, config)
    assert report.after["params"] < report.before["params"]
    assert report.after["flops"] < report.before["flops"]
    assert len(report.skipped) == 3 and "hidden units" in report.skipped[0]
    again = compact_(model(), Architecture.from_dict(json.loads(json.dumps(found.to_dict()))))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in pruned.state_dict().items()
    }
    kept = list(found.units[0])
    if kept:
        assert torch.equal(pruned.blocks[0].mlp.fc1.weight, model().blocks[0].mlp.fc1.weight[kept])


def test_a_route_through_two_widths() -> None:
    """Costs follow each block's own width, and the derived net gives what the search gave."""
    net = stitch(tiny_vit_family(depth=3), IMAGES)
    index = next(i for i, config in enumerate(net.configs) if config.name.startswith("a0-1.s"))
    route = net.extract(index).eval()
    blocks = transformer_blocks(route)
    widths = [block.attn.qkv.in_features for block in blocks]
    assert {*widths} == {8, 16} and len(blocks) < len(route.blocks)
    floor, dense = cost_bounds(route)
    per_block = [branch_macs(d, 2, 16, 17)[2] + 2 * 16 * d * 4 * d for d in widths]
    assert dense - floor == sum(per_block)
    # patches to 8 channels, 8 to 16 between blocks, 16 to the classes, norms
    assert floor == 16 * 4 * 8 + 17 * 8 * 16 + 16 * 10 + sum(2 * 17 * d for d in widths)
    search = SinglePathSearch(copy.deepcopy(route), 0.7 * dense, lam_rel=20.0)
    with torch.no_grad():
        for i, block in enumerate(search.blocks):
            block.mlp.thresholds.copy_(torch.linspace(-1, 1, len(block.mlp.thresholds)) + i)
    search.blocks[0].attn.choose("conv3x3")
    found = search.meet_target_()
    assert 0 <= search.target_macs - float(search.macs().detach()) < 2 * 16 * 16
    estimate_norms_(search, IMAGES)
    compact = compact_(copy.deepcopy(search.model), found).eval()
    with torch.no_grad():
        assert (compact(IMAGES) - search.eval()(IMAGES)).abs().max() < 1e-4


def test_data_that_can_be_gone_through_once() -> None:
    once = iter(tiny_task().train)
    with pytest.raises(DataError, match="none when it is gone through again"):
        prune_attention_(model(), once, loss, SPViTConfig(steps=20))


def test_what_cannot_be_searched() -> None:
    task = tiny_task()
    with pytest.raises(NoEffectError, match="No gate closed in 1 steps"):
        prune_attention_(model(), task.train, loss, SPViTConfig(steps=1))
    with pytest.raises(DataError, match="no batch"):
        prune_attention_(model(), [], loss, SPViTConfig())
    for other in (nn.Linear(2, 2), tiny_swin_family().models[0]):
        with pytest.raises(FamilyError, match="plain vision transformers"):
            prune_attention_(other, task.train, loss, SPViTConfig())
    dense = cost_bounds(model())[1]
    for target in (2 * dense, 1.0):
        with pytest.raises(FamilyError, match="The search can reach more than"):
            SinglePathSearch(model(), target, lam_rel=1.0)
    for both in ({}, {"lam": 1.0, "lam_rel": 1.0}):
        with pytest.raises(RecipeError, match="either lam or lam_rel"):
            SinglePathSearch(model(), 0.6 * dense, **both)


@pytest.mark.parametrize(
    "config",
    [{"ratio": 1.0}, {"ratio": 0.0}, {"steps": 0}, {"lr": 0.0}, {"arch_lr": -1.0}, {"alpha": 0.0}],
)
def test_settings_that_cannot_be(config: dict) -> None:
    with pytest.raises(RecipeError, match="SPViT's"):
        SPViTConfig(**config)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kinds": ["skip"], "units": []},
        {"kinds": ["conv"], "units": [[1]]},
        {"kinds": ["skip"], "units": [[1, 1]]},
        {"kinds": ["skip"], "units": [["1"]]},
        {"kinds": ["skip"], "units": [[-1]]},
        {"kinds": ["skip"], "units": 3},
    ],
)
def test_tampered_architectures(value: dict) -> None:
    with pytest.raises(RecipeError, match="search again"):
        Architecture.from_dict(value)


def test_architectures_of_another_model() -> None:
    wide = Architecture(kinds=FOUND.kinds, units=((0,), (), (96,)))
    for other in (wide, Architecture(kinds=("skip",), units=((),))):
        with pytest.raises(RecipeError, match="take the model that was searched"):
            compact_(model(), other)
