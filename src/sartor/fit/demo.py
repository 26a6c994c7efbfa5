"""The embedded default: three small ViTs on scikit-learn's digits, trained on the spot and cached,
no network.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from sartor.core import ArtifactError, Family, Member, Task
from sartor.core.files import read_json, sha256, write_json
from sartor.fit.progress import Progress
from sartor.fit.threads import training_threads
from sartor.nn import build
from sartor.train import TrainSettings, load_tensors, save_tensors, train

__all__ = ["DEMO_MEMBERS", "cache_folder", "demo_family"]

DEMO_MEMBERS: dict[str, dict[str, int]] = {
    "vit-16": {"embed_dim": 16, "depth": 6, "num_heads": 2},
    "vit-32": {"embed_dim": 32, "depth": 6, "num_heads": 4},
    "vit-96": {"embed_dim": 96, "depth": 6, "num_heads": 6},
}


def cache_folder() -> Path:
    """Where trained demo models are kept: ``$SARTOR_CACHE``, else the user's cache folder."""
    given = os.environ.get("SARTOR_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(home) / "sartor"


def demo_family(task: Task, progress: Progress, *, epochs: int = 30, seed: int = 0) -> Family:
    """Train the three models on a task of 8 x 8 images, or take them from the cache.

    Args:
        task: with inputs (B, 1, 8, 8).
        progress: hears of each model.
        epochs: of each model's training.
        seed: of initialisation and training.

    Returns:
        The family, small to large.
    """
    progress.begin("training the demo's family", len(DEMO_MEMBERS))
    members = []
    for name, sizes in DEMO_MEMBERS.items():
        source = {"kind": "tiny_vit", "kwargs": {**sizes, "num_classes": task.num_classes or 10}}
        members.append(_member(name, source, task, epochs, seed))
        progress.advance(name)
    return Family(tuple(members))


def _member(name: str, source: dict[str, Any], task: Task, epochs: int, seed: int) -> Member:
    facts = {
        "source": source,
        "task": task.name,
        "epochs": epochs,
        "seed": seed,
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "demo" / f"{key}.safetensors"
    model = build(source, seed=seed)
    if not _load(model, path):
        settings = TrainSettings(epochs=epochs, lr=3e-3, warmup_epochs=1, seed=seed)
        with training_threads(sum(p.numel() for p in model.parameters())):
            train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
        save_tensors(model.state_dict(), path)
        write_json(path.with_suffix(".json"), {**facts, "sha256": sha256(path)})
    return Member(name=name, model=model.eval(), source=source)


def _load(model: torch.nn.Module, path: Path) -> bool:
    """Load cached weights; a missing or damaged file means that they are trained again."""
    try:
        if read_json(path.with_suffix(".json"))["sha256"] != sha256(path):
            return False
        model.load_state_dict(load_tensors(path))
    except (ArtifactError, OSError, KeyError, TypeError, RuntimeError):
        return False
    return True
