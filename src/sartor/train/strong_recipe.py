"""The training recipes at which vanilla distillation is as good as any other.

Source: Hao et al., NeurIPS 2023, arXiv 2305.15781, whose recipes A1 and A2 are those of Wightman,
    Touvron, Jegou, ResNet strikes back, 2021, arXiv 2110.00476. The paper's recipe for transformer
    students could not be checked and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sartor.core.errors import TrainingError, nearest
from sartor.losses.vanilla_kd import VanillaKD, bce_loss

__all__ = ["STRONG_RECIPES", "StrongRecipe", "strong_recipe"]


@dataclass(frozen=True, kw_only=True)
class StrongRecipe:
    """Settings for ImageNet-1K in timm's vocabulary; what both recipes share has a default.

    Attributes:
        epochs: of the whole training, along half a cosine.
        weight_decay: of the optimiser.
        smoothing: share of a label that is spread over the classes.
        mixup: alpha of mixup.
        batch_size: over all devices.
        opt: the optimiser.
        lr: highest rate, at that batch size.
        warmup_epochs: of linear rise.
        warmup_lr: where the rise begins.
        drop_path: rate of stochastic depth.
        aug_repeats: views of each image in a batch.
        aa: augmentation.
        cutmix: alpha of cutmix.
        crop_pct: share of the picture that is tested on.
    """

    epochs: int
    weight_decay: float
    smoothing: float
    mixup: float
    batch_size: int = 2048
    opt: str = "lamb"
    lr: float = 5e-3
    warmup_epochs: int = 5
    warmup_lr: float = 1e-6
    drop_path: float = 0.05
    aug_repeats: int = 3
    aa: str = "rand-m7-mstd0.5"
    cutmix: float = 1.0
    crop_pct: float = 0.95

    def loss(self) -> VanillaKD:
        """Binary cross entropy on labels or mixed targets, plus the teacher at T = 1.

        Mixed targets are taken as they come: smooth them where they are mixed.
        """
        return VanillaKD(label_loss=partial(bce_loss, smoothing=self.smoothing))


#: "a2" takes half the epochs of "a1"
STRONG_RECIPES: Mapping[str, StrongRecipe] = {
    "a1": StrongRecipe(epochs=600, weight_decay=0.01, smoothing=0.1, mixup=0.2),
    "a2": StrongRecipe(epochs=300, weight_decay=0.02, smoothing=0.0, mixup=0.1),
}


def strong_recipe(name: str, **changes: Any) -> StrongRecipe:
    """A recipe by name, with some settings changed.

    Args:
        name: ``a1`` or ``a2``.
        changes: settings of :class:`StrongRecipe`.

    Raises:
        TrainingError: there is no such recipe or no such setting.

    Example:
        >>> strong_recipe("a2", epochs=100).lr
        0.005
    """
    if name not in STRONG_RECIPES:
        raise TrainingError(f"There is no recipe {name!r}; {nearest(name, STRONG_RECIPES)}")
    settings = vars(STRONG_RECIPES[name])
    for key in changes:
        if key not in settings:
            raise TrainingError(f"Recipes have no setting {key!r}; {nearest(key, settings)}")
    return StrongRecipe(**{**settings, **changes})
