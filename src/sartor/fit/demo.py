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
from sartor.fit.processes import is_main
from sartor.fit.progress import Progress
from sartor.fit.threads import training_threads
from sartor.nn import build
from sartor.train import TrainSettings, load_tensors, save_tensors, train

__all__ = ["DEMO_MEMBERS", "cache_folder", "demo_family"]

#: name -> architecture, and the training that was chosen on the selection data
DEMO_MEMBERS: dict[str, tuple[dict[str, int], TrainSettings]] = {
    "vit-16": (
        {"embed_dim": 16, "depth": 6, "num_heads": 2},
        TrainSettings(epochs=40, lr=5e-3, warmup_epochs=3),
    ),
    "vit-32": (
        {"embed_dim": 32, "depth": 6, "num_heads": 4},
        TrainSettings(epochs=35, lr=3e-3, warmup_epochs=3),
    ),
    "vit-64": (
        {"embed_dim": 64, "depth": 6, "num_heads": 4},
        TrainSettings(epochs=45, lr=2e-3, warmup_epochs=3, weight_decay=0.1),
    ),
}


def cache_folder() -> Path:
    """Where trained demo models are kept: ``$SARTOR_CACHE``, else the user's cache folder."""
    given = os.environ.get("SARTOR_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(home) / "sartor"


def demo_family(task: Task, progress: Progress, *, trained: bool = True) -> Family:
    """Train the three models on a task of 8 x 8 images, or take them from the cache.

    Args:
        task: with inputs (B, 1, 8, 8).
        progress: hears of each model.
        trained: ``False`` leaves the weights random.

    Returns:
        The family, small to large.
    """
    progress.begin("training the demo's family", len(DEMO_MEMBERS) if trained else 0)
    members = []
    for name, (sizes, settings) in DEMO_MEMBERS.items():
        source = {"kind": "tiny_vit", "kwargs": {**sizes, "num_classes": task.num_classes or 10}}
        model = build(source)
        if trained:
            _train(model, source, task, settings)
        members.append(Member(name=name, model=model.eval(), source=source))
        progress.advance(name)
    return Family(tuple(members))


def _train(
    model: torch.nn.Module, source: dict[str, Any], task: Task, settings: TrainSettings
) -> None:
    """Train in place, or load what an equal training left in the cache."""
    facts = {
        "source": source,
        "task": task.name,
        "settings": vars(settings),
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "demo" / f"{key}.safetensors"
    if _load(model, path):
        return
    with training_threads(sum(p.numel() for p in model.parameters())):
        train(model, task.train, lambda m, x, y: F.cross_entropy(m(x), y), settings)
    if is_main():
        save_tensors(model.state_dict(), path)
        write_json(path.with_suffix(".json"), {**facts, "sha256": sha256(path)})


def _load(model: torch.nn.Module, path: Path) -> bool:
    """Load cached weights; a missing or damaged file means that they are trained again."""
    try:
        if read_json(path.with_suffix(".json"))["sha256"] != sha256(path):
            return False
        model.load_state_dict(load_tensors(path))
    except (ArtifactError, OSError, KeyError, TypeError, RuntimeError):
        return False
    return True
