from pathlib import Path
from typing import ClassVar

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sartor.nn.backbones  # noqa: F401 (registers)
from sartor.core import FamilyError
from sartor.measure import count_flops
from sartor.nn.spvit.backbone import BACKBONES, spvit_deit
from sartor.nn.spvit.keys import plain_state
from sartor.nn.weights import load_weights_
from sartor.testing import BackboneContract

SMALL: dict = {
    "kinds": ("conv1x1", "conv3x3", "attention"),
    "widths": (9, 7, 5),
    "embed_dim": 12,
    "num_heads": 3,
    "patch_size": 8,
    "img_size": 32,
    "num_classes": 5,
}


class TestSPViT(BackboneContract):
    name = "spvit_deit_tiny"
    kwargs: ClassVar = {key: value for key, value in SMALL.items() if key != "num_classes"}

    def test_no_decay_names_exist(self) -> None:
        """timm also names tokens that its class does not have here."""
        model = self.made()
        names = {name for name, _ in model.named_parameters()}
        assert model.no_weight_decay() & names == {"pos_embed", "cls_token"}
        assert model.no_weight_decay() - names == {"dist_token", "reg_token"}


@pytest.mark.parametrize(
    ("name", "params", "fixed", "macs"),
    [
        ("spvit_deit_tiny", 4_774_808, 4_873_422, 1.0386),
        ("spvit_deit_small", 15_870_724, 16_116_858, 3.3532),
        ("spvit_deit_base", 41_583_639, 46_207_987, 8.4091),
        ("spvit_deit_base_10g", 58_320_928, 62_256_336, 11.7642),
    ],
)
def test_counts_of_the_card(name: str, params: int, fixed: int, macs: float) -> None:
    backbone = next(one for one in BACKBONES if one.name == name)
    with torch.device("meta"):
        model = timm.create_model(name)
        counted = count_flops(model, torch.zeros(1, 3, 224, 224)) / 2e9
    assert counted == pytest.approx(macs, abs=6e-5)
    found = sum(p.numel() for p in model.parameters())
    assert found == params
    # before they are made compact, convolutions keep values, outputs, head logits and a norm
    dim, heads = backbone.kwargs["embed_dim"], backbone.kwargs["num_heads"]
    hidden = dim // heads
    kept = 2 * (dim**2 + dim) + 9 * heads + 2 * hidden
    for kind, area in (("conv1x1", 1), ("conv3x3", 9)):
        compact = area * dim * hidden + hidden + 2 * hidden + hidden * dim + dim
        found += backbone.kwargs["kinds"].count(kind) * (kept - compact)
    assert found == fixed


def test_branches_of_a_skipped_block() -> None:
    model = spvit_deit(("skip", "attention"), (4, 4), embed_dim=12, img_size=32)
    assert not list(model.blocks[0].attn.parameters())
    with torch.no_grad():
        assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    assert isinstance(model.blocks[0].drop_path1, nn.Identity)


@pytest.mark.parametrize(
    ("kinds", "widths"),
    [(("conv5x5",), (4,)), (("skip",), (0,)), (("skip",), (4, 4)), ((), ())],
)
def test_architectures_that_cannot_be(kinds: tuple[str, ...], widths: tuple[int, ...]) -> None:
    with pytest.raises(FamilyError, match="a width of at least 1 for each block"):
        spvit_deit(kinds, widths, embed_dim=12, img_size=32)


def official_shapes(
    kinds: tuple[str, ...],
    widths: tuple[int, ...],
    dim: int,
    heads: int,
    patch: int,
    tokens: int,
    classes: int,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' fine-tuned checkpoint, written down from their modules."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim), "pos_embed": (1, tokens, dim)}

    def layer(key: str, *shape: int) -> None:
        shapes[f"{key}.weight"], shapes[f"{key}.bias"] = shape, shape[:1]

    layer("patch_embed.proj", dim, 3, patch, patch)
    for i, (kind, width) in enumerate(zip(kinds, widths, strict=True)):
        block = f"blocks.{i}"
        layer(f"{block}.norm1", dim)
        if kind == "attention":
            layer(f"{block}.attn.qk", 2 * dim, dim)
        else:
            norm = f"{block}.attn.bn_{kind.removeprefix('conv')}"
            layer(norm, dim // heads)
            shapes[f"{norm}.running_mean"] = shapes[f"{norm}.running_var"] = (dim // heads,)
            shapes[f"{norm}.num_batches_tracked"] = ()
            shapes[f"{block}.attn.head_probs"] = (heads, 9)
        layer(f"{block}.attn.v", dim, dim)
        layer(f"{block}.attn.proj", dim, dim)
        layer(f"{block}.norm2", dim)
        layer(f"{block}.mlp.fc1", width, dim)
        layer(f"{block}.mlp.fc2", dim, width)
    layer("norm", dim)
    layer("head", classes, dim)
    return shapes


def small_checkpoint() -> dict[str, Tensor]:
    shapes = official_shapes(SMALL["kinds"], SMALL["widths"], 12, 3, 8, 17, 5)
    generator = torch.Generator().manual_seed(0)
    state = {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    for key, value in state.items():
        if key.endswith("running_var"):
            value.abs_().add_(0.5)
        elif key.endswith("head_probs"):  # so that no head has it all: the logits are divided
            value.mul_(0.05).add_(1.0)  # by 0.01
    return {k: v.long() if k.endswith("tracked") else v for k, v in state.items()}


def searchable_forward(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """What the authors' net gives, with each convolution as a sum of shifted, mixed heads."""
    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat((state["cls_token"].expand(len(x), -1, -1), x), dim=1) + state["pos_embed"]
    for i in range(3):
        part = {k.removeprefix(f"blocks.{i}."): v for k, v in state.items() if f"blocks.{i}." in k}
        y = F.layer_norm(x, (12,), part["norm1.weight"], part["norm1.bias"], 1e-6)
        mixed = unmixed_attention(part, y) if i == 2 else shifted_heads(part, y, side=2 * i + 1)
        x = x + mixed
        y = F.layer_norm(x, (12,), part["norm2.weight"], part["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
        x = x + F.linear(y, part["mlp.fc2.weight"], part["mlp.fc2.bias"])
    x = F.layer_norm(x, (12,), state["norm.weight"], state["norm.bias"], 1e-6)
    return F.linear(x[:, 0], state["head.weight"], state["head.bias"])


def unmixed_attention(part: dict[str, Tensor], x: Tensor) -> Tensor:
    """Three heads of four channels, one by one."""
    q, k = F.linear(x, part["attn.qk.weight"], part["attn.qk.bias"]).chunk(2, dim=-1)
    v = F.linear(x, part["attn.v.weight"], part["attn.v.bias"])
    heads = []
    for h in range(3):
        one = slice(4 * h, 4 * h + 4)
        weights = (q[..., one] @ k[..., one].transpose(1, 2) / 2).softmax(dim=-1)
        heads.append(weights @ v[..., one])
    return F.linear(torch.cat(heads, dim=-1), part["attn.proj.weight"], part["attn.proj.bias"])


def shifted_heads(part: dict[str, Tensor], x: Tensor, *, side: int) -> Tensor:
    """Values of all heads first; then, for each kernel position, mixed, moved and added."""
    p = (part["attn.head_probs"] / 0.01).softmax(dim=0)  # (3, 9)
    plain = F.linear(x[:, 1:], part["attn.v.weight"]).view(-1, 4, 4, 3, 4)  # (B, H, W, h, e)
    padded = F.pad(plain, (0, 0, 0, 0, 1, 1, 1, 1))
    bias, outer = part["attn.v.bias"].view(3, 4), part["attn.proj.weight"].view(12, 3, 4)
    hidden, out = torch.zeros(len(x), 4, 4, 4), torch.zeros(12, 4)
    for k in range(9) if side == 3 else (4,):
        row, column = k % 3, k // 3
        moved = padded[:, row : row + 4, column : column + 4]
        hidden = hidden + torch.einsum("bijhe,h->bije", moved, p[:, k]) + p[:, k] @ bias
        out = out + torch.einsum("dhe,h->de", outer, p[:, k])
    norm = f"attn.bn_{side}x{side}."
    hidden = (hidden - part[norm + "running_mean"]) / (part[norm + "running_var"] + 1e-5).sqrt()
    hidden = F.relu(hidden * part[norm + "weight"] + part[norm + "bias"]).flatten(1, 2)
    return torch.cat((x[:, :1], F.linear(hidden, out, part["attn.proj.bias"])), dim=1)


def test_official_checkpoints_give_what_the_searchable_form_gives(tmp_path: Path) -> None:
    state, model = small_checkpoint(), timm.create_model("spvit_deit_tiny", **SMALL)
    torch.save({"model": state, "epoch": 129}, tmp_path / "official.pth")
    load_weights_(model, tmp_path / "official.pth", name="spvit_deit_tiny")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = searchable_forward(state, images)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.1


def test_compacted_official_checkpoints_load_too() -> None:
    """As the authors' own script leaves them: convolutions, norms and position-wise layers."""
    plain = plain_state(small_checkpoint())
    names = {"conv": "bconv.0", "norm": "bconv.1", "proj": "bconv.3"}
    compact = dict(plain)
    for key, value in plain.items():
        stem, _, leaf = key.partition(".attn.")
        part, _, kind = leaf.partition(".")
        if f"{stem}.attn.conv.weight" in plain and part in names:
            wide = value[..., None, None] if leaf == "proj.weight" else value
            compact[f"{stem}.attn.{names[part]}.{kind}"] = wide
            del compact[key]
    assert len(compact) == len(plain) and "blocks.1.attn.bconv.3.weight" in compact
    again = plain_state(compact)
    assert again.keys() == plain.keys()
    assert all(torch.equal(again[key], value) for key, value in plain.items())
    assert all(plain_state(plain)[key] is value for key, value in plain.items())


def test_official_names_and_shapes_of_the_published_size() -> None:
    """The counted parameters are those of the card before and after."""
    backbone = BACKBONES[0]
    shapes = official_shapes(
        backbone.kwargs["kinds"], backbone.kwargs["widths"], 192, 3, 16, 197, 1000
    )
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        model = timm.create_model("spvit_deit_tiny")
        plain = model.adapt_state(state)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(v.numel() for k, v in state.items() if not k.endswith(buffers)) == 4_873_422
    assert sum(v.numel() for k, v in plain.items() if not k.endswith(buffers)) == 4_774_808
    assert {k: v.shape for k, v in plain.items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_official_checkpoints_that_do_not_load() -> None:
    state = small_checkpoint()
    with pytest.raises(FamilyError, match="SPViT's search, whose gates are still open"):
        plain_state({**state, "blocks.0.attn.kernel_thresholds": torch.zeros(3)})
    del state["blocks.1.attn.proj.bias"]
    with pytest.raises(FamilyError, match=r"blocks.1.attn is .* without its 'proj.bias'"):
        plain_state(state)
