import pytest
import torch
from torch import nn

from sartor.core import FamilyError
from sartor.nn import tiny_vit
from sartor.nn.token_grid import patch_grid, token_counts


def test_a_transformers_grid() -> None:
    assert patch_grid(tiny_vit(img_size=12, patch_size=3)) == (4, 4)


def test_models_without_one_grid() -> None:
    with pytest.raises(FamilyError, match="into no grids"):
        patch_grid(nn.Linear(2, 2))
    with pytest.raises(FamilyError, match="into 2 grids"):
        patch_grid(nn.ModuleList([tiny_vit(), tiny_vit(img_size=4)]))


def test_tokens_are_counted_and_modes_kept() -> None:
    model = tiny_vit(embed_dim=8).train()
    modules = {"block": model.blocks[1], "head": model.head, "stem": model.patch_embed}
    assert token_counts(model, torch.zeros(3, 1, 8, 8), modules) == {
        "block": (17, 8),
        "stem": (16, 8),
    }
    assert model.training and not model.blocks[1]._forward_hooks
