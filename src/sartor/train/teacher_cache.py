"""A teacher's logits on disk: one pass over fixed training data, streamed back beside the batches.

Source: the idea of stored soft labels is old; top-k with the rest spread evenly follows Shen, Xing,
    A Fast Knowledge Distillation Framework for Visual Recognition, ECCV 2022, arXiv 2112.01528
    (marginal smoothing). Deviation: one stored view of each item, not several crops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sartor.core.errors import ArtifactError, TrainingError
from sartor.core.files import read_json, sha256, write_json
from sartor.core.modes import eval_mode
from sartor.data.memory import same_loader
from sartor.train.checkpoint import load_tensors, save_tensors
from sartor.train.fixed_view import FixedView
from sartor.train.logit_rows import LogitFormat
from sartor.train.teacher_answer import ask, check_finite

__all__ = ["TeacherCache", "cache_teacher", "weights_hash"]

_MANIFEST = "teacher_cache.json"
#: rows that a live teacher is compared on, and how far it may be off: half precision is 5e-4
_COMPARED, _MAY_DEVIATE = 32, 4e-3


class TeacherCache:
    """Logits of every item of a training set; made by :func:`cache_teacher`.

    Shards are mapped from disk where they are read, so a cache may be larger than memory.

    Args:
        folder: holds ``teacher_cache.json`` and the shards that it names.

    Raises:
        ArtifactError: it is no cache, is not finished, or a shard is missing or was changed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        self.manifest: dict[str, Any] = read_json(folder / _MANIFEST)
        _verify(folder, self.manifest)
        if _rows_done(self.manifest) < self.manifest["rows"]:
            raise ArtifactError(
                f"The cache in {folder} has {_rows_done(self.manifest)} of "
                f"{self.manifest['rows']} rows; call cache_teacher again to finish it."
            )
        self.format = LogitFormat(**self.manifest["format"])
        self._shards: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_shards": {}}  # each loading process maps the files itself

    @property
    def size_bytes(self) -> int:
        """What the shards take on disk."""
        return sum((self.folder / one["file"]).stat().st_size for one in self.manifest["shards"])

    def rows(self, indices: Sequence[int]) -> Tensor:
        """Logits (B, K), float32, of these items."""
        at, classes = torch.as_tensor(indices), int(self.manifest["classes"])
        shard, inside = at // self.manifest["shard_rows"], at % self.manifest["shard_rows"]
        numbers = shard.unique().tolist()
        if len(numbers) == 1:
            return self.format.decode(self._shard(numbers[0]), inside, classes)
        logits = torch.empty(len(at), classes)
        for number in numbers:
            here = shard == number
            logits[here] = self.format.decode(self._shard(number), inside[here], classes)
        return logits

    def beside(self, loader: Any) -> DataLoader[Any]:
        """The same batches in the same order with their logits: (inputs, targets, logits (B, K)).

        Raises:
            ArtifactError: the loader's data are not those of the cache.
            DataError: the loader has no numbered items.
        """
        view = self._view(loader)
        return same_loader(loader, dataset=_Beside(view, self), collate_fn=_as_is)

    def check_teacher(
        self, teacher: nn.Module, loader: Any, *, resize: Sequence[int] | None = None
    ) -> float:
        """Compare the cache with a live teacher: weights, input size, and outputs on 32 items.

        Returns:
            The largest deviation of a kept logit, relative to 1 + its size.

        Raises:
            ArtifactError: it is the cache of another teacher or of other data.
        """
        if self.manifest["teacher"] != weights_hash(teacher):
            raise ArtifactError(
                f"The cache in {self.folder} is of another teacher than the given "
                f"{type(teacher).__name__}; make one for it in another folder."
            )
        if self.manifest["resize"] != (None if resize is None else list(resize)):
            raise ArtifactError(
                f"The cache in {self.folder} is of inputs resized to {self.manifest['resize']}, "
                f"asked for is {resize}; give the same teacher_resize or make another cache."
            )
        rows = range(min(_COMPARED, len(self)))
        inputs, _ = self._view(loader).batch(rows)
        with eval_mode(teacher):
            device = next(teacher.parameters()).device
            live = ask(teacher, inputs.to(device), resize).float().cpu()
        deviation = self.format.deviation(self.rows(rows), live)
        if not deviation <= _MAY_DEVIATE:
            raise ArtifactError(
                f"The live teacher deviates by {deviation:.2g} from its cache in {self.folder}, "
                f"allowed is {_MAY_DEVIATE:g}; its code or settings changed, so make the cache "
                "again."
            )
        return deviation

    def _view(self, loader: Any) -> FixedView:
        view = FixedView(loader, seed=self.manifest["seed"])
        if view.fingerprint() != self.manifest["data"]:
            raise ArtifactError(
                f"The cache in {self.folder} is of other data than the loader gives; make one for "
                "them in another folder."
            )
        return view

    def _shard(self, number: int) -> dict[str, Tensor]:
        if number not in self._shards:
            path = self.folder / self.manifest["shards"][number]["file"]
            self._shards[number] = load_tensors(path)
        return self._shards[number]


def cache_teacher(
    teacher: nn.Module,
    loader: Any,
    folder: str | Path,
    *,
    dtype: str = "float16",
    top_k: int | None = None,
    seed: int = 0,
    resize: Sequence[int] | None = None,
    batch_size: int = 256,
    shard_rows: int = 65536,
    on_rows: Callable[[int], None] | None = None,
) -> TeacherCache:
    """Ask a teacher about every item of a training set once and keep its logits.

    A killed call goes on after its last whole shard; a finished cache is opened and checked.

    Args:
        teacher: maps (B, ...) to (B, K); runs in eval mode on the device where it is.
        loader: of the training data; the order does not matter. Random augmentation is fixed: item
            i is drawn with ``seed`` and i, in every epoch, here and when it is read.
        folder: of the cache; made if it is not there.
        dtype: ``float16`` or ``float32``.
        top_k: how many logits of a row are kept; see :class:`~sartor.train.LogitFormat`.
        seed: of the augmentation.
        resize: (C, H, W) that the teacher takes.
        batch_size: inputs in one forward pass, at least 1.
        shard_rows: rows in one file, at least 1; what a killed call loses at most.
        on_rows: called with the number of rows done after each shard.

    Raises:
        ArtifactError: the folder holds a cache of another teacher, other data or other settings, or
            a damaged one.
        DataError: the loader has no numbered items, or they cannot be fixed.
        TrainingError: a setting is out of range, the teacher's outputs are not finite, or the
            format cannot hold them.

    Example:
        >>> import tempfile
        >>> from sartor.data import digits_task
        >>> from sartor.nn import tiny_vit
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = cache_teacher(tiny_vit(), digits_task().train, Path(folder), top_k=3)
        ...     len(cache), cache.rows([5, 0]).shape
        (8000, torch.Size([2, 10]))
    """
    if min(batch_size, shard_rows) < 1 or seed < 0:
        raise TrainingError(
            "cache_teacher takes batch_size and shard_rows of at least 1 and a seed of at least 0, "
            f"got {batch_size}, {shard_rows} and {seed}."
        )
    folder, view = Path(folder), FixedView(loader, seed=seed)
    form = LogitFormat(dtype=dtype, top_k=top_k)
    key = {
        "version": 1,
        "teacher": weights_hash(teacher),
        "data": view.fingerprint(),
        "rows": len(view),
        "format": asdict(form),
        "seed": seed,
        "resize": None if resize is None else list(resize),
        "shard_rows": shard_rows,
    }
    manifest = _begun(folder, key)
    with eval_mode(teacher):
        for start in range(_rows_done(manifest), len(view), shard_rows):
            stop = min(start + shard_rows, len(view))
            logits = _answers(teacher, view, range(start, stop), batch_size, resize)
            name = f"shard-{len(manifest['shards']):05d}.safetensors"
            save_tensors(form.encode(logits), folder / name)
            manifest["classes"] = logits.shape[1]
            digest = sha256(folder / name)
            manifest["shards"].append({"file": name, "sha256": digest, "rows": stop - start})
            write_json(folder / _MANIFEST, manifest)
            if on_rows:
                on_rows(stop)
    return TeacherCache(folder)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a model's class and of every name, kind, shape and byte of its state dict."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Beside(Dataset[Any]):
    """Whole batches of a view with the logits of the same items."""

    def __init__(self, view: FixedView, cache: TeacherCache) -> None:
        self.view, self.cache = view, cache

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        inputs, targets = self.view.batch(indices)
        return inputs, targets, self.cache.rows(indices)


def _as_is(batch: Any) -> Any:
    return batch


def _answers(
    teacher: nn.Module,
    view: FixedView,
    rows: range,
    batch_size: int,
    resize: Sequence[int] | None,
) -> Tensor:
    """Logits (len(rows), K) of these items, float32, on the CPU."""
    device = next(teacher.parameters()).device
    parts = []
    for start in range(rows.start, rows.stop, batch_size):
        inputs, _ = view.batch(range(start, min(start + batch_size, rows.stop)))
        parts.append(ask(teacher, inputs.to(device), resize).float().cpu())
        check_finite(parts[-1])
    return torch.cat(parts)


def _begun(folder: Path, key: dict[str, Any]) -> dict[str, Any]:
    """The manifest in a folder, if it has the same key, or a new one."""
    if not (folder / _MANIFEST).exists():
        return {**key, "shards": []}
    manifest: dict[str, Any] = read_json(folder / _MANIFEST)
    _verify(folder, manifest)
    words = {"teacher": "teacher", "data": "data", "rows": "data"}
    for name, value in key.items():
        if manifest.get(name) != value:
            what = f"another {words[name]}" if name in words else f"another setting of {name}"
            raise ArtifactError(
                f"The cache in {folder} is of {what}; choose another folder, or remove this one."
            )
    return manifest


def _verify(folder: Path, manifest: Any) -> None:
    try:
        listed = [(folder / Path(one["file"]).name, one["sha256"]) for one in manifest["shards"]]
        _rows_done(manifest)
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder / _MANIFEST} is not the list of a teacher cache; remove the folder and make "
            "it again."
        ) from error
    for path, digest in listed:
        if not path.exists() or sha256(path) != digest:
            raise ArtifactError(
                f"{path} was changed or removed since it was written; remove the folder and make "
                "the cache again."
            )


def _rows_done(manifest: dict[str, Any]) -> int:
    return sum(one["rows"] for one in manifest["shards"])
