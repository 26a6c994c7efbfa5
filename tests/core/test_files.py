import hashlib
import json
from pathlib import Path

import pytest

from sartor.core import ArtifactError
from sartor.core.files import (
    atomic_path,
    check_writable,
    read_json,
    sha256,
    write_json,
    write_text,
)


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of it")
        raise RuntimeError
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"new": float("nan")})
    assert read_json(path) == {"old": 1}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_write_replaces_and_keeps_the_suffix_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".onnx"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o644


def test_text_and_json_survive(tmp_path: Path) -> None:
    value = {"ü": [1, 2.5, None, True, "naïve </script>"]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


def test_checksums(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_unwritable_and_full_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot be written .*--out"):
        check_writable(tmp_path / "file", 0)
    with pytest.raises(ArtifactError, match="MB free and this run may write"):
        check_writable(tmp_path / "new", 10**18)
    check_writable(tmp_path / "new", 1000)
    assert list((tmp_path / "new").iterdir()) == []
