import pytest
import torch
from torch import Tensor, nn

from sartor.core import FamilyError
from sartor.nn import build, tiny_vit
from sartor.nn.dense_vit import DenseViT, LightHead, dense_tiny_vit, resized


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_head_reads_the_blocks() -> None:
    model = dense_tiny_vit(embed_dim=8, depth=4, num_heads=2).eval()
    inputs, kept = noise(2, 3, 32, 32), []
    for block in (1, 3):
        model.backbone.blocks[block].register_forward_hook(lambda _m, _i, o: kept.append(o))
    with torch.no_grad():
        found = model(inputs)
        maps = [o[:, 1:].transpose(1, 2).reshape(2, 8, 8, 8).contiguous() for o in kept]
        wanted = model.head(maps)
    assert model.out_indices == (1, 3)
    assert found.shape == (2, 5, 32, 32) and torch.equal(found, wanted)


def test_each_map_is_normalised_by_itself() -> None:
    head = LightHead(4, 2, 3, scale=2).eval()
    maps = [noise(2, 4, 5, 5), noise(2, 4, 5, 5, seed=1)]
    with torch.no_grad():
        torch.testing.assert_close(
            head([100 * maps[0] + 7, maps[1]]), head(maps), atol=1e-4, rtol=0
        )
    assert head(maps).shape == (2, 3, 10, 10)


def test_a_factory_builds_it() -> None:
    path = "sartor.nn.dense_vit:dense_tiny_vit"
    source = {"kind": "factory", "path": path, "kwargs": {"embed_dim": 8, "depth": 1}}
    model = build(source, factories=[path])
    assert isinstance(model, DenseViT) and model.out_indices == (0,)


@pytest.mark.parametrize("no_embed_class", [False, True], ids=["vit", "deit3"])
def test_position_embeddings_are_resized_as_timm_does(no_embed_class: bool) -> None:
    timm = pytest.importorskip("timm")
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, embed_dim=8, depth=1, num_heads=2, num_classes=3,
        no_embed_class=no_embed_class,
    ).eval()  # fmt: skip
    nn.init.normal_(model.pos_embed)
    before = model.pos_embed.clone()
    made = resized(model, (16, 8))
    wanted = timm.layers.resample_abs_pos_embed(
        before, (8, 4), (4, 4), num_prefix_tokens=0 if no_embed_class else 1
    )
    assert torch.equal(made.pos_embed, wanted) and torch.equal(model.pos_embed, before)
    assert made(noise(2, 1, 16, 8)).shape == (2, 3)
    same = resized(model, (8, 8))
    assert torch.equal(same(noise(2, 1, 8, 8)), model(noise(2, 1, 8, 8)))


def test_dense_models_are_resized_too() -> None:
    made = resized(dense_tiny_vit(embed_dim=8, depth=2, num_heads=2), (16, 64))
    assert made(noise(1, 3, 16, 64)).shape == (1, 5, 16, 64)


def test_what_cannot_be_resized() -> None:
    with pytest.raises(FamilyError, match="Linear cannot be resized; give a timm model"):
        resized(nn.Linear(2, 2), (8, 8))
    for size in ((9, 8), (8, 0)):
        with pytest.raises(FamilyError, match=rf"{size[0]} x {size[1]} is no multiple .* 2 x 2"):
            resized(tiny_vit(depth=1), size)
