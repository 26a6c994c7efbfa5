"""Feature taps: the outputs of named modules, by forward hooks that are always removed."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sartor.core.errors import TrainingError, nearest

__all__ = ["FeatureTaps", "feature_paths"]


class FeatureTaps:
    """Keeps what chosen modules put out while the context is open.

    The hooks exist inside the ``with`` block alone, however it is left. The model computes what it
    would compute without them, and features carry gradients as the model's own do.

    Args:
        model: any module; one inside a wrapper, such as that of several processes, may be given
            itself.
        paths: as ``named_modules`` spells them; each once.

    Raises:
        TrainingError: there is no such module, or a path is repeated.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> with FeatureTaps(model, ["0"]) as taps:
        ...     logits = model(torch.zeros(5, 3))
        ...     features = taps.take()
        >>> features["0"].shape
        torch.Size([5, 4])
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        known = dict(model.named_modules())
        known.pop("")
        for path in paths:
            if path not in known:
                raise TrainingError(
                    f"{type(model).__name__} has no module {path!r} to tap; {nearest(path, known)}"
                )
        if len(set(paths)) < len(paths):
            raise TrainingError(f"Each module is tapped once, got {', '.join(paths)}.")
        self._modules = {path: known[path] for path in paths}
        self._handles: list[RemovableHandle] = []
        self._kept: dict[str, tuple[Tensor, int]] = {}

    def __enter__(self) -> FeatureTaps:
        for path, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._keep(path)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._kept.clear()

    def take(self) -> dict[str, Tensor]:
        """Features of the forward pass since the last call, in the order of the paths.

        Raises:
            TrainingError: a module did not run, ran twice, gave no tensor, or what follows it wrote
                into its output.
        """
        kept, self._kept = self._kept, {}
        for path in self._modules:
            if path not in kept:
                raise TrainingError(
                    f"The tapped module {path!r} did not run in the forward pass; tap one that "
                    "does."
                )
            feature, version = kept[path]
            if _version(feature) != version:
                raise TrainingError(
                    f"What follows {path!r} writes into its output, so the feature is lost; tap "
                    "the module after it, or switch its inplace=True off."
                )
        return {path: kept[path][0] for path in self._modules}

    def _keep(self, path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise TrainingError(
                    f"The tapped module {path!r} returns a {type(output).__name__}; tap one that "
                    "returns a tensor."
                )
            if path in self._kept:
                raise TrainingError(
                    f"The tapped module {path!r} ran twice since its features were taken; take "
                    "them after each forward pass, and tap no module that is used twice in one."
                )
            self._kept[path] = (output, _version(output))

        return hook


def feature_paths(model: nn.Module, indices: Sequence[int] | None = None) -> tuple[str, ...]:
    """Module paths that a timm model itself names as its features.

    Args:
        model: has timm's ``feature_info``.
        indices: which of them, negative ones from the end; ``None``: all.

    Returns:
        Paths for :class:`FeatureTaps`, from the inputs to the outputs.

    Raises:
        TrainingError: the model names none, or not so many.

    Example:
        >>> import timm
        >>> feature_paths(timm.create_model("resnet10t"), [-2, -1])
        ('layer3', 'layer4')
    """
    info = getattr(model, "feature_info", None)
    rows: list[dict[str, Any]] = list(getattr(info, "info", info) or ())
    paths = [row["module"] for row in rows if row.get("module")]
    if not paths:
        raise TrainingError(
            f"{type(model).__name__} does not name its features as timm's models do; give module "
            "paths instead."
        )
    chosen = range(len(paths)) if indices is None else indices
    for index in chosen:
        if not -len(paths) <= index < len(paths):
            raise TrainingError(
                f"{type(model).__name__} names {len(paths)} features, so there is no number "
                f"{index}; choose from {-len(paths)} to {len(paths) - 1}."
            )
    return tuple(paths[index] for index in chosen)


def _version(feature: Tensor) -> int:
    """How often a tensor was written into; those of inference mode do not count it."""
    return 0 if feature.is_inference() else feature._version
