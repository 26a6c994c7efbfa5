"""The user's own checkpoints: read without running code, loaded strictly."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError
from sartor.nn.backbone import official_state

__all__ = ["load_weights_", "read_weights"]

#: names under which training scripts keep the weights beside other things
_INSIDE = ("state_dict", "model")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors``, ``.pt`` or ``.pth`` file onto the CPU.

    Nothing in the file is executed: torch files are read with ``weights_only=True``. A dictionary
    that keeps the state dict under ``state_dict`` or ``model`` is unpacked.

    Raises:
        FamilyError: the file is missing, of another kind, damaged, or holds no state dict.
    """
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise FamilyError(
            f"The weights {path} are of the kind {path.suffix!r}; give a .safetensors, .pt or .pth "
            "file."
        )
    if not path.is_file():
        raise FamilyError(f"The weights {path} do not exist; give the path of a file.")
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals([Namespace]):  # training scripts' settings
                found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own kinds
        raise FamilyError(
            f"The weights {path} cannot be read as plain tensors ({type(error).__name__}); save "
            "model.state_dict() alone, as safetensors if you can."
        ) from error
    for key in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    ):
        raise FamilyError(
            f"The weights {path} hold no state dict of tensors; save model.state_dict() alone."
        )
    return dict(found)


def load_weights_(
    model: nn.Module,
    path: Path,
    *,
    name: str,
    official_key: Callable[[str], str | None] | None = None,
) -> None:
    """Load a checkpoint into a model; every name and shape must match.

    Args:
        model: is changed in place.
        path: of the checkpoint.
        name: of the model, for errors.
        official_key: names of the authors' weights -> names here, as of a ``Backbone``; is used if
            the file's names are not the model's.

    Raises:
        FamilyError: the file cannot be read, or names or shapes differ; nothing is loaded then.
    """
    weights, own = read_weights(path), model.state_dict()
    if official_key is not None and weights.keys() != own.keys():
        weights = official_state(weights, official_key)
    weights = getattr(model, "adapt_state", dict)(weights)
    differing = [
        f"{key} is {tuple(weights[key].shape)} and should be {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    problems = [
        _count("missing", [key for key in own if key not in weights]),
        _count("unexpected", [key for key in weights if key not in own]),
        _count("of another shape", differing),
    ]
    if any(problems):
        raise FamilyError(
            f"The weights {path} do not fit the model {name!r} ({'; '.join(filter(None, problems))}"
            "); give the weights of this very architecture, with the classes of the task."
        )
    model.load_state_dict(weights)


def _count(what: str, names: Sequence[str], *, shown: int = 3) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} {what}: {', '.join(names[:shown])}{rest}"
