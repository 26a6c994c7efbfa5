import pytest
import timm.data
import timm.optim
import torch
from torch import nn

from sartor.core import TrainingError
from sartor.losses import Outputs, bce_loss, kd_loss
from sartor.train.strong_recipe import STRONG_RECIPES, strong_recipe


def test_the_cards_table() -> None:
    columns = ("epochs", "batch_size", "opt", "lr", "weight_decay", "warmup_epochs", "warmup_lr")
    more = ("smoothing", "drop_path", "aug_repeats", "aa", "mixup", "cutmix", "crop_pct")
    found = {n: [getattr(r, c) for c in columns + more] for n, r in STRONG_RECIPES.items()}
    shared = ["rand-m7-mstd0.5"]
    assert found == {
        "a2": [300, 8 * 256, "lamb", 5e-3, 0.02, 5, 1e-6, 0.0, 0.05, 3, *shared, 0.1, 1.0, 0.95],
        "a1": [600, 8 * 256, "lamb", 5e-3, 0.01, 5, 1e-6, 0.1, 0.05, 3, *shared, 0.2, 1.0, 0.95],
    }


def test_timm_knows_its_words() -> None:
    for recipe in STRONG_RECIPES.values():
        assert timm.data.rand_augment_transform(recipe.aa, {}) is not None
        model = nn.Linear(2, 2)
        made = timm.optim.create_optimizer_v2(
            model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        assert type(made).__name__ == "Lamb"


def test_its_loss_is_binary_on_labels_and_plain_against_the_teacher() -> None:
    z, t, y = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 2, 4])
    for name, smoothing in (("a1", 0.1), ("a2", 0.0)):
        found = strong_recipe(name).loss()(Outputs(z), Outputs(t), y)
        torch.testing.assert_close(found, bce_loss(z, y, smoothing) + kd_loss(z, t))


def test_changes_and_unknown_words() -> None:
    assert strong_recipe("a1", epochs=10, mixup=0.0).epochs == 10
    with pytest.raises(TrainingError, match="no recipe 'a3'"):
        strong_recipe("a3")
    with pytest.raises(TrainingError, match="no setting 'epoch'; did you mean 'epochs'"):
        strong_recipe("a1", epoch=3)
