"""Checkpoints of a training: tensors as safetensors, the rest as JSON, whole or absent, no
pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sartor.core.errors import ArtifactError
from sartor.core.files import atomic_path, read_json, sha256, write_json

__all__ = ["load_checkpoint", "load_tensors", "save_checkpoint", "save_tensors", "tensor_shapes"]


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically; one that has several names is stored once.

    Tensors that only share memory, such as views of one another, are stored apart.
    """
    stored: dict[str, Tensor] = {}
    names: dict[Any, str] = {}
    aliases: dict[str, str] = {}
    for key, value in tensors.items():
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        first = names.setdefault(place, key) if value.numel() else key
        if first == key:
            stored[key] = value.detach().cpu().clone().contiguous()
        else:
            aliases[key] = first
    with atomic_path(path) as temporary:
        save_file(stored, temporary, {"aliases": json.dumps(aliases)} if aliases else None)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors, every name of a shared tensor included.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    with _opened(path) as file:
        tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in sorted(file.keys())}
        aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
        return tensors | {key: tensors[first] for key, first in aliases.items()}


def tensor_shapes(path: Path) -> tuple[tuple[int, ...], ...]:
    """Shapes of the tensors in a safetensors file, whatever their names, in a fixed order; only its
    header is read.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    with _opened(path) as file:
        return tuple(sorted(tuple(file.get_slice(key).get_shape()) for key in file.keys()))  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is not a readable safetensors file ({error}); restore it or fit again."
        ) from error


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Write the state of a training; the previous one stays until the new one is whole.

    Args:
        folder: holds ``<epoch>.safetensors`` and ``checkpoint.json``, which names it with its
            checksum.
        model: its ``state_dict`` is kept.
        optimizer: likewise.
        progress: JSON-ready; must have ``epoch``.
        parts: more that has a ``state_dict``, flat, of tensors and JSON-ready values, by name.
    """
    state = optimizer.state_dict()
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    kept: dict[str, dict[str, Any]] = {}
    for name, part in (parts or {}).items():
        kept[name] = {}
        for key, value in part.state_dict().items():
            if isinstance(value, Tensor):
                tensors[f"part.{name}.{key}"] = value
            else:
                kept[name][key] = value
    path = folder / f"{progress['epoch']}.safetensors"
    save_tensors(tensors, path)
    groups = [dict(group) for group in state["param_groups"]]
    record = {"file": path.name, "sha256": sha256(path), "progress": dict(progress)}
    record |= {"optimizer": {"groups": groups, "plain": plain}, "parts": kept}
    write_json(folder / "checkpoint.json", record)
    for old in folder.glob("*.safetensors"):
        if old != path:
            old.unlink()


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    parts: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Put the state of a training back.

    Args:
        folder: as :func:`save_checkpoint` left it.
        model: gets its weights.
        optimizer: gets its state, if given.
        parts: get theirs through ``load_state_dict``, by name.

    Returns:
        The progress that was saved, or ``None`` if there is no checkpoint.

    Raises:
        ArtifactError: it is damaged, or belongs to another model or other parts.
    """
    if not (folder / "checkpoint.json").exists():
        return None
    record = read_json(folder / "checkpoint.json")
    try:
        path = folder / Path(record["file"]).name
        digest, saved, progress = record["sha256"], record["optimizer"], record["progress"]
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder}/checkpoint.json is not a checkpoint; start without --resume."
        ) from error
    if not path.exists() or sha256(path) != digest:
        raise ArtifactError(f"{path} was changed since it was written; start without --resume.")
    tensors = load_tensors(path)
    try:
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise ArtifactError(
            f"The checkpoint in {folder} is of another model; start without --resume."
        ) from error
    if optimizer is not None:
        state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in saved["plain"].items()}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": saved["groups"]})
    for name, part in (parts or {}).items():
        if name not in record.get("parts", {}):
            raise ArtifactError(
                f"The checkpoint in {folder} has no state of the {name}; start without --resume."
            )
        start = f"part.{name}."
        own = {key[len(start) :]: v for key, v in tensors.items() if key.startswith(start)}
        part.load_state_dict(record["parts"][name] | own)
    return dict(progress)
