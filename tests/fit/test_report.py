import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sartor.core import (
    Budget,
    Frontier,
    Measurement,
    MissingPackageError,
    Point,
    Recipe,
    Step,
    Target,
)
from sartor.fit.picture import draw_frontier
from sartor.fit.report import write_report
from sartor.fit.table import frontier_table
from sartor.fit.words import bytes_text, candidates, count_text, gains, moves_text, speed_text

EVIL = "<script>alert(1)</script>\"'&$name ${title} [red]bold[/red]"
BASE = tuple({"name": n, "source": {"kind": "module"}, "split": None} for n in ("small", EVIL))
ANCHOR = [Step(move="anchor", plan={"index": index}) for index in (0, 1)]
STITCH = Step(move="sn-net", config={"stride": 1}, plan={"index": 3, "route": "a0-1.s0.2-3"})
PRUNE = Step(move="prune", config={"ratio": 0.5}, plan={"kept": EVIL})


def point(id: str, accuracy: float, ms: float, size: int, *steps: Step, **other: Any) -> Point:
    measurement = Measurement(
        latency_ms=ms,
        latency_iqr_ms=ms / 10,
        warmup=3,
        repeats=40,
        flops=int(1e6 * ms),
        params=size // 4,
        size_bytes=size,
        peak_memory_bytes=10 * size,
    )
    recipe = Recipe(base=BASE, steps=steps)
    return Point(
        id=id, accuracy=accuracy, measurement=measurement, recipe=recipe, seconds=1.5, **other
    )


def run(**other: Any) -> Frontier:
    small = point("small", 0.70, 2.0, 40_000, ANCHOR[0])
    large = point(EVIL, 0.90, 16.0, 1_600_000, ANCHOR[1])
    stitched = point("sn", 0.85, 6.0, 200_000, STITCH)
    pruned = point("sn+prune50", 0.80, 3.0, 100_000, STITCH, PRUNE, parent="sn")
    slow = point(
        "slow", 0.80, 7.0, 200_000, STITCH, PRUNE, parent="sn", status="dropped", reason=EVIL
    )
    files = {"model.onnx": "ab" * 32}
    given: dict[str, Any] = {
        "task": {"name": EVIL, "metric": "accuracy", "classes": [str(n) for n in range(90)]},
        "target": Target(threads=2, batch=4),
        "points": (small, replace(pruned, files=files), stitched, large),
        "anchors": tuple(replace(p, status="anchor") for p in (small, large)),
        "others": (slow, point("meh", 0.6, 5.0, 50_000, STITCH, status="dominated", reason="r")),
        "environment": {"cpu": EVIL, "packages": {"torch": "2"}, "cores": 2},
        "settings": {"seed": 7, "ratios": [0.5], "nearest": True, "nothing": None},
        "notes": (EVIL,),
        "seconds": 98.4,
    }
    return Frontier(**{**given, **other})


class Page(HTMLParser):
    """Tags with their attributes, and the text of scripts and of everything else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(frontier: Frontier, folder: Path) -> Page:
    write_report(frontier, folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    frontier = run(budget=Budget.parse("latency<=4ms, size<=50%, accuracy>=0.5"), complete=False)
    return read(frontier, tmp_path_factory.mktemp("report"))


def test_no_host_is_asked(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith("#"), f"<{tag} {name}={value}>"
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert policy and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    data, plotly, script = page.scripts
    assert "http" not in script and "http" not in data
    for text in (plotly, script):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_texts_are_escaped(page: Page) -> None:
    assert len(page.scripts) == 3 and "alert(1)" not in page.scripts[1] + page.scripts[2]
    assert page.text.count(EVIL) > 5
    data = json.loads(page.scripts[0])
    assert EVIL in [p["id"] for p in data["points"]] and "<" not in page.scripts[0]
    assert {row["data-id"] for row in page.all("tr") if "data-id" in row} == {
        p["id"] for p in data["points"]
    }


def test_content(page: Page) -> None:
    data = json.loads(page.scripts[0])
    assert [axis["field"] for axis in data["axes"]] == [
        "latency_ms",
        "size_bytes",
        "params",
        "flops",
    ]
    assert data["best"] == data["chosen"] == "sn+prune50"
    assert [(b["field"], b["value"]) for b in data["bounds"]] == [
        ("latency_ms", 4.0),
        ("size_bytes", 800_000.0),
        ("accuracy", 0.5),
    ]
    by_id = {p["id"]: p for p in data["points"]}
    assert by_id["small"]["frontier"] and by_id["small"]["anchor"]
    assert by_id["slow"]["status"] == "dropped" and not by_id["slow"]["frontier"]
    assert by_id["sn+prune50"]["files"] == {"model.onnx": "ab" * 32}
    assert by_id["sn+prune50"]["recipe"]["steps"][1]["config"] == {"ratio": 0.5}
    for said in (
        "4 models on the frontier, from 2 to 16 ms (a span of 8.00x), accuracy from 70.0% to 90.0%",
        "latency<=4ms binds",
        "80.0%, 3 ms: 5.33x the speed and 1/16 the size",
        "This run has not reached its end",
        "-5.0 points",  # pruning sn: 85 % to 80 %
        "2.00x",  # and twice the speed
        "prune 50%",
        "warm-up runs3timed runs40",
        "seed7",
        "nearestyes",
        "98 s",
        "90 entries",
        "2 more that were made and are not on the frontier",
    ):
        assert said in page.text, said


def test_accessible(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en" and len(page.all("title")) == 1
    assert len(page.all("h1")) == 1 and len(page.all("main")) == 1
    assert all(th.get("scope") in {"row", "col"} for th in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 3
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for _, attributes in page.tags:
        assert not attributes.get("aria-labelledby") or attributes["aria-labelledby"] in ids
    radios = page.all("input")
    assert len(radios) == 4 and ["checked" in radio for radio in radios] == [True] + 3 * [False]
    assert len(page.all("fieldset")) == len(page.all("legend")) == 1
    points = [row for row in page.all("tr") if "data-id" in row]
    assert len(page.all("button")) == len(points) == 6  # each row can be chosen by keyboard
    assert len(set(ids)) == len([1 for _, attributes in page.tags if "id" in attributes])


def test_unfinished_and_odd_runs(tmp_path: Path) -> None:
    empty = read(run(points=(), others=(), notes=()), tmp_path)
    assert "Nothing is on the frontier yet" in empty.text and "No move was applied" in empty.text
    refused = read(run(budget=Budget.parse("latency<=1us")), tmp_path)
    assert "No point satisfies 'latency<=1us'" in refused.text
    other = read(run(task={"metric": "IoU"}, costs=("size_bytes",)), tmp_path)
    data = json.loads(other.scripts[0])
    assert (data["scale"], data["quality"]) == (1, "IoU")
    assert data["axes"][0]["field"] == "size_bytes" and "-0.0500" in other.text
    assert "bind" not in other.text


@pytest.mark.parametrize("package", ["plotly", "matplotlib"])
def test_without_the_optional_package(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = write_report if package == "plotly" else draw_frontier
    monkeypatch.setattr("sartor.core.packages.importlib.import_module", _missing)
    with pytest.raises(MissingPackageError, match=r"pip install 'sartor\[report\]'"):
        write(run(), tmp_path / "file")
    assert not (tmp_path / "file").exists()


def _missing(name: str) -> None:
    raise ModuleNotFoundError(name, name=name)


def test_picture(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw_frontier(run(), tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second and b"<dc:date>" not in first and b"</svg>" in first
    assert not re.search(rb'(src|href)="https?:', first)
    draw_frontier(run(points=(), others=()), tmp_path / "c.svg")
    assert (tmp_path / "c.svg").read_bytes() != first


def test_table_for_the_terminal() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(frontier_table(run()))
    text = console.export_text()
    for said in ("sn+prune50", "small→", "80.0%", "3 ± 0.15", "5.33x", "100 kB", "25k", "3M"):
        assert said in text, said
    assert "[red]bold[/red]" in text and "(anchor)" in text and "slow" not in text


def test_words() -> None:
    frontier = run()
    assert len({p.id for p in candidates(frontier)}) == len(candidates(frontier)) == 6
    by_id = {gain.point.id: gain for gain in gains(frontier)}
    assert set(by_id) == {"sn+prune50", "slow"}
    gain = by_id["sn+prune50"]
    assert (gain.speed, gain.size) == (2.0, 2.0) and gain.accuracy == pytest.approx(-0.05)
    steps = (Step(move="sn-net", plan={"route": "a1.x"}), Step(move="anchor", plan={"index": 9}))
    assert moves_text(Recipe(base=BASE, steps=steps)) == "sn-net + model 9"
    assert moves_text(Recipe(base=BASE)) == ""
    stage = Step(move="sn-net", plan={"route": "a0-1.s2.0-1"})
    base = ({"name": "a"}, {"name": "b"})
    assert moves_text(Recipe(base=base, steps=(stage,))) == "a→b in stage 2 at 0-1"
    assert [bytes_text(n) for n in (0, 999, 999_600, 1e13)] == ["0 B", "999 B", "1 MB", "10 TB"]
    assert [count_text(n) for n in (0, 1234, 5.7e6)] == ["0", "1.23k", "5.7M"]
    assert [speed_text(n) for n in (0.5, 12.3)] == ["0.50x", "12x"]
