"""Where the patches of a transformer lie: the grid behind a sequence of tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.core.modes import eval_mode

__all__ = ["patch_grid", "token_counts"]


def patch_grid(model: nn.Module) -> tuple[int, int]:
    """Rows and columns of patches that a model cuts its images into.

    Args:
        model: has one size of timm's patch embeddings anywhere inside.

    Raises:
        FamilyError: it has none, or of several sizes.
    """
    grids = {
        tuple(grid)
        for module in model.modules()
        if isinstance(grid := getattr(module, "grid_size", None), tuple | list)
    }
    if len(grids) != 1:
        raise FamilyError(
            f"{type(model).__name__} cuts images into {len(grids) or 'no'} grids of patches, where "
            "one is needed; give a vision transformer made by timm."
        )
    rows, columns = grids.pop()
    return rows, columns


@torch.no_grad()
def token_counts(
    model: nn.Module, example: Tensor, modules: Mapping[str, nn.Module]
) -> dict[str, tuple[int, int]]:
    """Run a model once and see how many tokens of how many channels modules give.

    Args:
        model: its modes are left as they were found.
        example: inputs (B, ...); the first is used.
        modules: of the model, by name.

    Returns:
        Name -> (tokens, channels), of those modules alone that give one tensor (1, N, C).
    """
    counts: dict[str, tuple[int, int]] = {}

    def keep(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 3:
            counts[name] = (output.shape[1], output.shape[2])

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, out, name=name: keep(name, out))
        for name, module in modules.items()
    ]
    try:
        with eval_mode(model):
            model(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return counts
