import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core import (
    ArtifactError,
    Budget,
    BudgetError,
    Frontier,
    Measurement,
    Point,
    Recipe,
    RecipeError,
    SartorError,
    Step,
    Target,
    non_dominated,
)
from sartor.core.files import sha256, write_json
from sartor.core.frontier import _digest

BASE = ({"name": "only", "source": {"kind": "module"}, "split": None},)


def point(
    id: str, accuracy: float, latency_ms: float, size_bytes: int = 1000, **other: Any
) -> Point:
    measurement = Measurement(
        latency_ms=latency_ms,
        latency_iqr_ms=0.1,
        warmup=3,
        repeats=10,
        flops=int(1e6 * latency_ms),
        params=size_bytes // 4,
        size_bytes=size_bytes,
    )
    recipe = Recipe(base=BASE, steps=(Step(move="anchor", plan={"index": 0}),))
    return Point(
        id=id, accuracy=accuracy, measurement=measurement, recipe=recipe, seconds=1.0, **other
    )


def frontier(*points: Point, **other: Any) -> Frontier:
    anchors = (point("small", 0.7, 4.0, 4000), point("large", 0.9, 16.0, 16000))
    given = {"task": {"name": "toy", "metric": "accuracy"}, "target": Target(), "anchors": anchors}
    return Frontier(points=points, **{**given, **other})  # type: ignore[arg-type]


# --- non-domination -----------------------------------------------------------------------------


def brute_force(points: Sequence[Point], costs: Sequence[str]) -> set[str]:
    """The definition: nobody is at least as good in everything and better in something; of points
    that are equal in everything, the first stays.
    """
    kept = set()
    for i, p in enumerate(points):
        beaten = False
        for j, q in enumerate(points):
            at_least = q.accuracy >= p.accuracy and all(q.values[c] <= p.values[c] for c in costs)
            better = q.accuracy > p.accuracy or any(q.values[c] < p.values[c] for c in costs)
            beaten = beaten or (at_least and (better or j < i))
        if not beaten:
            kept.add(p.id)
    return kept


few = st.integers(1, 5)


@given(st.lists(st.tuples(few, few, few), max_size=12), st.booleans())
def test_non_dominated_is_the_definition(rows: list[tuple[int, int, int]], both: bool) -> None:
    costs = ("latency_ms", "size_bytes") if both else ("latency_ms",)
    points = [point(f"p{n}", a / 5, float(t), s) for n, (a, t, s) in enumerate(rows)]
    kept = non_dominated(points, costs)
    assert {p.id for p in kept} == brute_force(points, costs)
    ordered = [[p.values[c] for c in costs] for p in kept]
    assert ordered == sorted(ordered)
    assert non_dominated(kept, costs) == kept


# --- choosing -----------------------------------------------------------------------------------

FAST = point("fast", 0.70, 1.0, 4000)
MIDDLE = point("middle", 0.80, 5.0, 2000)
EXACT = point("exact", 0.95, 20.0, 16000)


@pytest.mark.parametrize(
    ("budget", "best", "binding"),
    [
        ("", "exact", []),
        ("latency<=5ms", "middle", ["latency<=5ms"]),
        ("latency<=20ms", "exact", []),
        ("latency<=6ms, size<=3kB", "middle", ["size<=3kB", "latency<=6ms"]),
        ("latency<=6ms, latency<=6ms", "middle", ["latency<=6ms"]),
        ("latency<=2ms, size<=100%", "fast", ["latency<=2ms"]),
        ("size<=25%", "middle", ["size<=25%"]),
        ("accuracy>=0.75, latency<=10ms", "middle", ["latency<=10ms"]),
    ],
)
def test_best_and_what_binds(budget: str, best: str, binding: list[str]) -> None:
    whole = frontier(FAST, MIDDLE, EXACT)
    assert whole.best(budget).id == best
    assert [c.text for c in whole.binding(budget)] == binding
    mine = replace(whole, budget=Budget.parse(budget))
    assert mine.best() == whole.best(budget) and mine.binding() == whole.binding(budget)


def test_of_equals_the_cheapest() -> None:
    assert frontier(FAST, point("slower", 0.70, 2.0)).best().id == "fast"


def test_unsatisfiable_budget_names_the_bound_and_the_nearest_point() -> None:
    whole = frontier(FAST, MIDDLE, EXACT)
    with pytest.raises(BudgetError, match=r"latency<=0.5ms binds.*nearest point, fast, has .* 1 "):
        whole.best("latency<=0.5ms")
    with pytest.raises(BudgetError, match=r"accuracy>=0.99 binds.*exact, has accuracy 0.95 "):
        whole.best("accuracy>=0.99")
    with pytest.raises(BudgetError, match="no point yet"):
        frontier().best()
    bare = frontier(FAST, anchors=())
    with pytest.raises(ArtifactError, match="no anchor"):
        bare.best("latency<=50%")


def test_a_frontier_is_a_sequence_of_its_points() -> None:
    whole = frontier(FAST, EXACT)
    assert [c.text for c in whole.binding("latency<=0.1ms, size<=1kB")] == [
        "latency<=0.1ms",
        "size<=1kB",
    ]
    assert len(whole) == 2 and list(whole) == [FAST, EXACT] and whole["exact"] is EXACT
    assert whole.reference["latency_ms"] == 16.0
    with pytest.raises(ArtifactError, match="it has fast, exact"):
        whole["nope"]


# --- on disk ------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "points" / "fast"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    write_json(folder / "recipe.json", FAST.recipe.to_dict())
    files = {name: sha256(folder / name) for name in ("model.safetensors", "recipe.json")}
    whole = frontier(
        replace(FAST, files=files, folder=folder),
        replace(EXACT, parent="fast"),
        others=(replace(MIDDLE, status="dropped", reason="slower"),),
        costs=("latency_ms", "size_bytes"),
        budget=Budget.parse("latency<=5ms, size<=50%"),
        environment={"torch": "2"},
        settings={"seed": 3},
        notes=("a move was given up",),
        seconds=12.5,
        complete=False,
    )
    assert whole.save(tmp_path) == tmp_path / "frontier.json"
    return tmp_path


def test_save_and_load(saved: Path) -> None:
    loaded = Frontier.load(saved)
    assert loaded == Frontier.load(str(saved / "frontier.json"))
    assert loaded.to_dict() == json.loads((saved / "frontier.json").read_text())
    assert loaded["fast"].folder == saved / "points" / "fast"
    assert loaded["exact"].folder is None and loaded["exact"].parent == "fast"
    assert loaded.notes == ("a move was given up",) and not loaded.complete
    loaded["fast"].check_files()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if not isinstance(value, (dict, list)):
        return
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(child, (*path, key))


def changed(value: Any) -> Any:
    """Another value of another kind, so that both checksums and types are tried."""
    if isinstance(value, bool) or value is None:
        return "no"
    if isinstance(value, (int, float)):
        return value + 1
    return value + "x" if isinstance(value, str) else 7


def test_every_changed_value_is_noticed(saved: Path) -> None:
    path, original = saved / "frontier.json", (saved / "frontier.json").read_text()
    tried = 0
    for where in leaves(json.loads(original)):
        for edit in ("change", "remove", "add"):
            value = json.loads(original)
            parent = value
            for key in where[:-1]:
                parent = parent[key]
            if edit == "add":
                spot = parent[where[-1]] if where else value
                if not isinstance(spot, dict):
                    continue
                spot["extra"] = 1
            elif not where:
                continue
            elif edit == "change":
                parent[where[-1]] = changed(parent[where[-1]])
            else:
                del parent[where[-1]]
            path.write_text(json.dumps(value))
            with pytest.raises((ArtifactError, RecipeError)):
                Frontier.load(saved)
            tried += 1
    assert tried > 200
    path.write_text(original)
    Frontier.load(saved)


def test_a_forged_checksum_does_not_help_malformed_content(saved: Path) -> None:
    """With the checksum made anew, a changed kind of value still ends in a sentence; what a move
    reads is for the move to check.
    """
    original = (saved / "frontier.json").read_text()
    free = {"task", "environment", "settings"}  # objects of any content
    for where in leaves(json.loads(original)):
        if not where or (where[0] in free and len(where) > 1) or "files" in where[:-1]:
            continue
        if {"source", "config", "plan"} & set(where[:-1]) or where[-1] in ("split", "sha256"):
            continue
        value = json.loads(original)
        parent = value
        for key in where[:-1]:
            parent = parent[key]
        parent[where[-1]] = [1] if isinstance(parent[where[-1]], dict) else {"a": 1}
        value["sha256"] = _digest({k: v for k, v in value.items() if k != "sha256"})
        (saved / "frontier.json").write_text(json.dumps(value))
        with pytest.raises(SartorError):
            Frontier.load(saved)


@pytest.mark.parametrize("id", ["../../etc", "/etc", "..", "", "a/b"])
def test_a_point_cannot_lie_outside_its_run(saved: Path, id: str) -> None:
    value = json.loads((saved / "frontier.json").read_text())
    value["points"][0]["id"] = id
    value["sha256"] = _digest({k: v for k, v in value.items() if k != "sha256"})
    (saved / "frontier.json").write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match="cannot name a folder"):
        Frontier.load(saved)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"seconds": NaN}', "NaN is no JSON number"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "must be a JSON object"),
        ('"text"', "must be a JSON object"),
    ],
)
def test_damaged_files(saved: Path, text: str, says: str) -> None:
    (saved / "frontier.json").write_text(text)
    with pytest.raises((ArtifactError, RecipeError), match=says):
        Frontier.load(saved)


def test_missing_newer_and_binary_files(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        Frontier.load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Frontier.load(saved / "frontier.json" / "deeper")
    value = json.loads((saved / "frontier.json").read_text())
    (saved / "frontier.json").write_text(json.dumps({**value, "version": 2}))
    with pytest.raises(ArtifactError, match="version 2"):
        Frontier.load(saved)
    (saved / "frontier.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        Frontier.load(saved)


def test_files_of_a_point_are_checked(saved: Path) -> None:
    fast = Frontier.load(saved)["fast"]
    weights = saved / "points" / "fast" / "model.safetensors"
    weights.write_bytes(b"weightz")
    with pytest.raises(ArtifactError, match="was changed"):
        fast.load_model()
    weights.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        fast.load_model()
    with pytest.raises(ArtifactError, match="is missing"):
        replace(fast, files={"../fast/recipe.json": "0"}).check_files()
    with pytest.raises(ArtifactError, match="has no files"):
        Frontier.load(saved)["exact"].load_model()


def test_the_recipe_beside_the_weights_must_be_the_frontiers(saved: Path) -> None:
    fast = Frontier.load(saved)["fast"]
    path = saved / "points" / "fast" / "recipe.json"
    write_json(path, fast.recipe.then(Step(move="prune")).to_dict())
    files = {**fast.files, "recipe.json": sha256(path)}
    with pytest.raises(ArtifactError, match=r"not the one in frontier\.json"):
        replace(fast, files=files).check_files()
