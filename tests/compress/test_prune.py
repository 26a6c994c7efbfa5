import copy
import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from sartor.compress.prune import PruneConfig, prune_
from sartor.compress.resize import resize_, shape_plan
from sartor.core import NoEffectError, RecipeError
from sartor.testing import tiny_resnet_family, tiny_vit_family

VIT, RESNET = (1, 8, 8), (1, 32, 32)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def vit() -> nn.Module:
    return tiny_vit_family().models[2]


def pruned(model: nn.Module, shape: tuple[int, ...], **config: float) -> nn.Module:
    cut = copy.deepcopy(model)
    prune_(cut, torch.zeros(1, *shape), PruneConfig(**config))
    return cut


# --- what goes
# -------------------------------------------------------------------------------------


def test_a_pruned_vit_equals_the_dense_one_with_its_units_masked() -> None:
    model, inputs = vit(), noise(4, *VIT)
    cut = pruned(model, VIT, ratio=0.5)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for dense, thin in zip(masked.blocks, cut.blocks, strict=True):
            kept = kept_rows(dense.mlp.fc1.weight, thin.mlp.fc1.weight)
            assert len(kept) == 64
            dense.mlp.fc2.weight[:, others(kept, 128)] = 0
            kept = kept_rows(dense.attn.qkv.weight, thin.attn.qkv.weight)
            values = [row - 64 for row in kept if row >= 64]
            dense.attn.proj.weight[:, others(values, 32)] = 0
        torch.testing.assert_close(cut(inputs), masked(inputs), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(cut(inputs), model(inputs), atol=1e-3)


def kept_rows(dense: Tensor, thin: Tensor) -> list[int]:
    """Which rows of ``dense`` are left in ``thin``, found by their values."""
    return [int((dense == row).all(dim=1).nonzero()) for row in thin]


def others(kept: list[int], count: int) -> list[int]:
    return sorted(set(range(count)) - set(kept))


def test_heads_are_cut_whole() -> None:
    model = vit()
    cut = pruned(model, VIT, ratio=0.5)
    for dense, thin in zip(model.blocks, cut.blocks, strict=True):
        assert (thin.attn.num_heads, thin.attn.head_dim, thin.attn.attn_dim) == (2, 8, 16)
        kept = kept_rows(dense.attn.qkv.weight, thin.attn.qkv.weight)
        heads = sorted({row % 32 // 8 for row in kept})
        assert len(heads) == 2
        assert kept == [32 * part + 8 * h + i for part in range(3) for h in heads for i in range(8)]


def test_the_weakest_units_go() -> None:
    model = vit()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[:64] *= 1e-3
        model.blocks[0].mlp.fc1.bias[:64] *= 1e-3
        model.blocks[0].mlp.fc2.weight[:, :64] *= 1e-3
    cut = pruned(model, VIT, ratio=0.5)
    kept = kept_rows(model.blocks[0].mlp.fc1.weight, cut.blocks[0].mlp.fc1.weight)
    assert kept == list(range(64, 128))


def test_features_between_blocks_and_logits_keep_their_size() -> None:
    cut = pruned(vit(), VIT, ratio=0.5)
    assert cut(noise(2, *VIT)).shape == (2, 10)
    assert cut.pos_embed.shape[-1] == cut.head.in_features == 32
    assert all(block.norm1.normalized_shape == (32,) for block in cut.blocks)


def test_heads_can_be_left_alone() -> None:
    model = vit()
    cut = pruned(model, VIT, ratio=0.5, heads=False)
    assert cut.blocks[0].attn.num_heads == model.blocks[0].attn.num_heads
    assert cut.blocks[0].mlp.fc1.out_features == 64


def test_round_to() -> None:
    cut = pruned(vit(), VIT, ratio=0.3, round_to=32)
    assert {block.mlp.fc1.out_features for block in cut.blocks} == {96}


def test_resnets_lose_inner_channels_only() -> None:
    for model in tiny_resnet_family().models:
        cut = pruned(model, RESNET, ratio=0.5, round_to=2)
        assert cut(noise(2, *RESNET)).shape == (2, 4)
        for dense, thin in zip(blocks(model), blocks(cut), strict=True):
            assert thin.conv1.out_channels == thin.bn1.num_features < dense.conv1.out_channels
            assert thin.conv1.in_channels == dense.conv1.in_channels
            last = "conv3" if hasattr(dense, "conv3") else "conv2"
            assert getattr(thin, last).out_channels == getattr(dense, last).out_channels


def blocks(model: nn.Module) -> list[nn.Module]:
    return [b for name in ("layer1", "layer2", "layer3", "layer4") for b in getattr(model, name)]


def test_a_classifier_inside_nested_sequences_keeps_its_classes() -> None:
    head = nn.Sequential(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 24)))
    model = nn.Sequential(nn.Linear(8, 16), nn.Sequential(Wide(16)), head).eval()
    report = prune_(model, torch.zeros(1, 8), PruneConfig(ratio=0.5))
    assert model(torch.zeros(3, 8)).shape == (3, 24)
    assert "2.0.1: its outputs are the model's" in report.skipped


@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 32), nn.Conv2d(32, 32, 1, groups=4)], ids=repr)
def test_units_in_groups_stay(norm: nn.Module) -> None:
    block = nn.Sequential(nn.Conv2d(4, 32, 1), norm, nn.ReLU(), nn.Conv2d(32, 4, 1))
    model = nn.Sequential(nn.Sequential(block, nn.Identity()), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(NoEffectError, match="its units are grouped"):
        prune_(model.eval(), torch.zeros(1, 4, 2, 2), PruneConfig(ratio=0.5))


# --- reports, identity and refusals ---------------------------------------------------------------


def test_the_report_counts_and_names_what_was_left_alone() -> None:
    model = vit().train()
    before = sum(p.numel() for p in model.parameters())
    report = prune_(model, torch.zeros(1, *VIT), PruneConfig(ratio=0.5))
    assert report.before == {"params": before}
    assert report.after == {"params": sum(p.numel() for p in model.parameters())}
    assert report.after["params"] < before and model.training
    assert any("head: its outputs leave the block" in line for line in report.skipped)


def test_ignored_layers_stay() -> None:
    model = vit()
    report = prune_(
        model, torch.zeros(1, *VIT), PruneConfig(ratio=0.5), ignore=lambda _, name: "mlp" in name
    )
    assert model.blocks[0].mlp.fc1.out_features == 128 and model.blocks[0].attn.num_heads == 2
    assert any(line.endswith("ignored") for line in report.skipped)


def test_ratio_zero_is_the_identity() -> None:
    model = vit()
    state = copy.deepcopy(model.state_dict())
    report = prune_(model, torch.zeros(1, *VIT), PruneConfig(ratio=0))
    assert report.before == report.after and report.skipped == ()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_nothing_to_prune_is_an_error() -> None:
    with pytest.raises(NoEffectError, match=r"Pruning 10% removed nothing.*raise the ratio"):
        prune_(vit(), torch.zeros(1, *VIT), PruneConfig(ratio=0.1, round_to=128))


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_ratios_out_of_range(ratio: float) -> None:
    with pytest.raises(RecipeError, match=r"ratio must lie in \[0, 1\)"):
        PruneConfig(ratio=ratio)
    with pytest.raises(RecipeError, match="round_to must be at least 1"):
        PruneConfig(round_to=0)


# --- rebuilding
# -------------------------------------------------------------------------------------


class Wide(nn.Module):
    """A residual block with a layer norm inside the group that is cut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(width, 32), nn.LayerNorm(32)
        self.outer = nn.Linear(32, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.norm(self.inner(x)).relu())


class Inverted(nn.Module):
    """An inverted residual block, whose depthwise convolution is cut in width and in groups."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.norm = nn.Conv2d(width, 32, 1), nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.narrow = nn.Conv2d(32, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.norm(self.depthwise(self.wide(x))).relu())


@dataclass(frozen=True)
class Case:
    name: str
    model: nn.Module
    shape: tuple[int, ...]


CASES = (
    Case("vit", vit(), VIT),
    Case("resnet", tiny_resnet_family().models[1], RESNET),
    Case(
        "layer-norm", nn.Sequential(nn.Linear(4, 8), nn.Sequential(Wide(8)), nn.Linear(8, 3)), (4,)
    ),
    Case(
        "depthwise",
        nn.Sequential(
            nn.Conv2d(1, 8, 1), nn.Sequential(Inverted(8)), nn.Flatten(), nn.Linear(128, 3)
        ),
        (1, 4, 4),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_shapes_come_back_from_json(case: Case) -> None:
    model = case.model.eval()
    cut = pruned(model, case.shape, ratio=0.5, round_to=2)
    plan = json.loads(json.dumps(shape_plan(model, cut)))
    again = resize_(copy.deepcopy(model), plan)
    first = again.state_dict()  # no garbage: a stitched net is traced before its weights come
    for name, old in model.state_dict().items():
        assert torch.equal(first[name], old[tuple(slice(n) for n in first[name].shape)])
    again.load_state_dict(cut.state_dict())
    inputs = noise(3, *case.shape)
    with torch.no_grad():
        assert torch.equal(again(inputs), cut(inputs))
    assert repr(again) == repr(cut)


def test_no_cut_is_an_empty_plan() -> None:
    model = vit()
    plan = shape_plan(model, copy.deepcopy(model))
    assert plan == {"tensors": {}, "attributes": {}}
    assert resize_(model, plan) is model


TAMPERED = (
    ({"tensors": {"nothing.weight": [1]}}, "'nothing.weight'"),
    ({"tensors": {"head.weight": [11, 32]}}, r"\[11, 32\]"),
    ({"tensors": {"head.weight": [10]}}, r"\[10\]"),
    ({"tensors": {"head.weight": [0, 32]}}, r"\[0, 32\]"),
    ({"tensors": {"head.weight": "x"}}, "the shape x"),
    ({"tensors": {"head.forward": [1]}}, "'head.forward'"),
    ({"attributes": {"head": {"forward": 3}}}, "unknown key 'forward'"),
    ({"attributes": {"head": {"__class__": 3}}}, "unknown key '__class__'"),
    ({"attributes": {"head": {"out_features": 99}}}, "'out_features' of 'head' to 99"),
    ({"attributes": {"head": {"out_features": -1}}}, "to -1"),
    ({"attributes": {"head": {"out_features": [5]}}}, r"to \[5\]"),
    ({"attributes": {"head": {"num_heads": 1}}}, "'num_heads' of 'head'"),
    ({"attributes": {"nothing": {"num_heads": 1}}}, "'num_heads' of 'nothing'"),
    ({"attributes": {"norm": {"normalized_shape": [64]}}}, r"to \[64\]"),
    ({"attributes": {"head": 3}}, "must be a JSON object"),
    ({"code": {}}, "unknown key 'code'"),
    ({"tensors": []}, "list at 'tensors'"),
)


@pytest.mark.parametrize(("change", "message"), TAMPERED, ids=[m for _, m in TAMPERED])
def test_tampered_plans_are_refused(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        resize_(vit(), {"tensors": {}, "attributes": {}, **change})
