"""Runs that are killed or interrupted, and go on."""

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from sartor.core import ArtifactError, Frontier

SCRIPT = Path(__file__).with_name("tiny_fit.py")
VOLATILE = ("latency_ms", "latency_iqr_ms", "repeats", "warmup", "peak_memory_bytes")


def load_tiny():
    spec = importlib.util.spec_from_file_location("tiny_fit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def essence(folder):
    """All of a frontier but times: what the same seed must give again."""
    value = Frontier.load(folder).to_dict()
    rows = {}
    for part in ("anchors", "points", "others"):
        for point in value[part]:
            cost = {k: v for k, v in point["measurement"].items() if k not in VOLATILE}
            rows[part, point["id"]] = (point["accuracy"], point["recipe"], point["files"], cost)
    return rows


def start(folder, at, number):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), str(at), number]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    tiny = load_tiny()
    watcher = tiny.Count()
    tiny.run(folder, watcher)
    return essence(folder), watcher.count


def test_killed_at_random_moments_and_resumed_equals_uninterrupted(whole, tmp_path):
    expected, count = whole
    moments = random.Random(7).sample(range(1, count), 3)
    for at in sorted(moments):  # each kill strikes the run that the one before left behind
        assert start(tmp_path / "run", at, "KILL").returncode == -9
    load_tiny().run(tmp_path / "run", resume=True)
    assert essence(tmp_path / "run") == expected


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 30, 2))
def test_killed_at_every_second_moment(whole, tmp_path, at):
    expected, count = whole
    if at >= count:
        pytest.skip("the run is shorter")
    assert start(tmp_path / "run", at, "KILL").returncode == -9
    load_tiny().run(tmp_path / "run", resume=True)
    assert essence(tmp_path / "run") == expected


def test_interrupted_run_keeps_and_tells_the_best_so_far(whole, tmp_path):
    expected, count = whole
    done = start(tmp_path / "run", count // 2, "INT")
    assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr
    kept = Frontier.load(tmp_path / "run")
    assert not kept.complete and len(kept) >= 1
    assert kept.best().load_model() is not None
    load_tiny().run(tmp_path / "run", resume=True)
    assert essence(tmp_path / "run") == expected


def test_damaged_journal_is_refused(whole, tmp_path):
    folder = tmp_path / "run"
    assert start(folder, 8, "KILL").returncode == -9
    (folder / "state" / "journal.json").write_text(json.dumps({"candidates": [{}]}))
    with pytest.raises(ArtifactError, match=r"journal .* is damaged"):
        load_tiny().run(folder, resume=True)


def test_unwritable_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot be written .*--out"):
        load_tiny().run(tmp_path / "file" / "run")


def test_full_disk_is_refused_before_training(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("sartor.core.files.shutil.disk_usage", lambda _: usage)
    watcher = load_tiny().Count()
    with pytest.raises(ArtifactError, match=r"1 MB free .* make room"):
        load_tiny().run(tmp_path / "run", watcher)
    assert watcher.count == 0
