from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sartor.core import DataError
from sartor.data import load_task

datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")


def _rows(count: int, *, labels: list[int] | None = None, **more: Any) -> Any:
    """A split with pictures of one colour each."""
    features = {
        "img": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        **{name: feature for name, (feature, _) in more.items()},
    }
    values = {
        "img": [Image.new("RGB", (6, 6), (index, 0, 0)) for index in range(count)],
        "label": labels or [index % 2 for index in range(count)],
        **{name: column for name, (_, column) in more.items()},
    }
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make ``load_dataset`` read splits from a local folder in place of the Hub."""

    def publish(**splits: Any) -> None:
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "owner-name")

    def load(name: str) -> Any:
        if name != "owner/name":
            raise ConnectionError(f"Couldn't reach {name!r} on the Hub.")
        return datasets.load_from_disk(tmp_path / "owner-name")

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets, "load_dataset", load)
    return publish


def test_both_splits_are_used(hub: Any) -> None:
    hub(train=_rows(20), test=_rows(6))
    state = torch.get_rng_state()
    task = load_task("hub:owner/name", batch_size=6)
    assert torch.equal(state, torch.get_rng_state())
    assert (task.name, task.classes) == ("owner/name", ("cat", "dog"))
    assert task.input_shape == (3, 6, 6)
    inputs, labels = next(iter(task.validation))
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    torch.testing.assert_close(inputs[5, 0, 0, 0], torch.tensor((5 / 255 - 0.485) / 0.229))
    train, selection = (
        set(part.dataset.chosen.tolist())  # type: ignore[attr-defined]
        for part in (task.train, task.selection)
    )
    assert (len(train), len(selection)) == (18, 2) and not train & selection


def test_without_a_second_split_a_part_is_held_out(hub: Any) -> None:
    hub(train=_rows(20))
    task = load_task("hub:owner/name", workers=2, batch_size=4)
    parts = [
        part.dataset.chosen.tolist()  # type: ignore[attr-defined]
        for part in (task.train, task.selection, task.validation)
    ]
    assert sorted(i for part in parts for i in part) == list(range(20))
    assert [len(part) for part in parts] == [14, 2, 4]
    assert next(iter(task.train))[0].shape == (4, 3, 6, 6)


def test_corrupt_rows_are_skipped(hub: Any) -> None:
    rows = _rows(120).cast_column("img", datasets.Image(decode=False))
    broken = rows.map(
        lambda row, index: {"img": {"bytes": b"x", "path": None}} if index == 7 else row,
        with_indices=True,
    )
    hub(train=broken.cast_column("img", datasets.Image()), validation=_rows(4))
    assert load_task("hub:owner/name").notes == (
        "train: skipped 1 of 120 images as corrupt: row 7",
    )


def test_offline_or_missing(hub: Any) -> None:
    with pytest.raises(
        DataError, match=r"'other' cannot be loaded \(Couldn't reach.*; check its name"
    ):
        load_task("hub:other")


def test_no_train_split(hub: Any) -> None:
    hub(test=_rows(6))
    with pytest.raises(DataError, match="no split train but test"):
        load_task("hub:owner/name")


def test_unlabelled_rows(hub: Any) -> None:
    hub(train=_rows(6), test=_rows(3, labels=[-1, -1, -1]))
    with pytest.raises(DataError, match=r"validation labels hold -1, outside 0\.\.1"):
        load_task("hub:owner/name")


def test_other_columns(hub: Any) -> None:
    names = datasets.ClassLabel(names=["a", "b"])
    hub(train=_rows(4, kind=(names, [0, 1, 0, 1])))
    assert load_task("hub:owner/name").classes == ("cat", "dog")
    with pytest.raises(DataError, match="0 columns of the kind Image"):
        hub(train=_rows(4).remove_columns("img"))
        load_task("hub:owner/name")


def test_splits_with_different_columns(hub: Any) -> None:
    hub(train=_rows(6), test=_rows(4).rename_column("img", "photo"))
    with pytest.raises(DataError, match="have different columns"):
        load_task("hub:owner/name")


@pytest.mark.parametrize("name", ["", "..", "a/b/c", "../x/y", "https://x.y/z"])
def test_names_that_are_no_ids_are_refused_before_any_look_up(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name: pytest.fail("looked up"))
    with pytest.raises(DataError, match="does not name a Hub data set"):
        load_task(f"hub:{name}")
