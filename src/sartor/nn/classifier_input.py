"""Pooled features of any classifier: what its last linear layer reads."""

from __future__ import annotations

from torch import Tensor, nn

from sartor.core.errors import FamilyError

__all__ = ["find_classifier", "logits_and_features"]


def find_classifier(model: nn.Module) -> nn.Linear:
    """The linear layer that makes the logits: timm's ``get_classifier()``, else the last one.

    Raises:
        FamilyError: there is none.

    Example:
        >>> find_classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        Linear(in_features=64, out_features=10, bias=True)
    """
    named = getattr(model, "get_classifier", None)
    found = named() if callable(named) else None
    if isinstance(found, nn.Linear):
        return found
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise FamilyError(
            f"{type(model).__name__} has no linear layer whose inputs could be its pooled features;"
            " set the feature weight to 0 or take a model that ends in one."
        )
    return linear[-1]


def logits_and_features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run a classifier once and keep what its last layer read; the hook is gone afterwards.

    Args:
        model: maps images (B, ...) to logits (B, K).
        images: (B, ...).

    Returns:
        Logits (B, K) and features (B, d).

    Raises:
        FamilyError: the layer did not read one vector for each image.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [tuple(t.shape) for t in logits_and_features(model, torch.zeros(5, 4))]
        [(5, 2), (5, 3)]
    """
    read: list[Tensor] = []
    classifier = find_classifier(model)
    handle = classifier.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    try:
        logits: Tensor = model(images)
    finally:
        handle.remove()
    if len(read) != 1 or read[0].ndim != 2:
        shapes = [tuple(one.shape) for one in read]
        raise FamilyError(
            f"The last layer of {type(model).__name__} must read one vector for each image, once, "
            f"it read {shapes}; set the feature weight to 0 or take another model."
        )
    return logits, read[0]
