import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sartor.core import RecipeError
from sartor.reproduce.evidence import Check, Evidence
from sartor.testing import EvidenceContract


def evidence(**changes: object) -> Evidence:
    made = Evidence(
        slug="toy",
        claim="Toys gain a point.",
        measure="points",
        baseline=1.0,
        measured=2.5,
        checks=(
            Check(asked="gain over [nothing]", measured=1.5, limit=1.0),
            Check(asked="cost", measured=3.0, limit=2.0, relation="<=", decides=False),
        ),
        tables={"By seed": [{"seed": 0, "gain": 1.5}, {"seed": 1, "gain": 1.25}]},
        losses=("Toys cost 1 more.",),
        notes=("Nothing.",),
        seeds=(0, 1),
        seconds=3.0,
        environment={"python": "3"},
    )
    return replace(made, **changes)


class TestContract(EvidenceContract):
    def evidence(self) -> Evidence:
        return evidence()


def test_checks_lie_on_one_side_of_their_limit() -> None:
    at_least = Check(asked="a", measured=2.0, limit=1.5)
    at_most = replace(at_least, relation="<=")
    assert at_least.passed and at_least.margin == 0.5
    assert not at_most.passed and at_most.margin == -0.5
    assert replace(at_most, measured=1.5).passed and replace(at_least, measured=1.5).passed
    assert not replace(at_least, measured=math.nan).passed
    with pytest.raises(RecipeError, match=r">= or <=, got '>'"):
        replace(at_least, relation=">")


def test_only_deciding_checks_decide() -> None:
    made = evidence()
    assert made.passed and made.margin == 1.5
    strict = tuple(replace(check, decides=True) for check in made.checks)
    assert not evidence(checks=strict).passed


def test_round_trip_through_json() -> None:
    made = evidence()
    value = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert value["passed"] is True and value["margin"] == 1.5
    assert value["checks"][1] == {
        "asked": "cost",
        "measured": 3.0,
        "limit": 2.0,
        "relation": "<=",
        "decides": False,
        "passed": False,
        "margin": -1.0,
    }
    assert Evidence.from_dict(value) == made
    with pytest.raises(RecipeError, match="no entry 'claims'; did you mean 'claim'"):
        Evidence.from_dict({**value, "claims": 1})
    del value["slug"]
    with pytest.raises(RecipeError, match="lacks the entry 'slug'"):
        Evidence.from_dict(value)


def shown(made: Evidence) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    made.show(console)
    return console.file.getvalue()


def test_showing() -> None:
    made = evidence()
    text = shown(made)
    assert "does not hold" in text and "By seed" in text and "- Toys cost 1 more." in text
    assert "- cost: 3, asked <= 2." in text
    assert "points: 2.5 against 1 (+1.5); seeds 0, 1; 3 s" in text
    assert text.rstrip().endswith("passed")
    (gain, _) = made.checks
    assert "nowhere in this run" in shown(evidence(checks=(gain,), losses=()))
    failed = evidence(checks=(replace(gain, measured=0.0),), losses=())
    assert shown(failed).rstrip().endswith("failed") and "nowhere" not in shown(failed)
    assert failed.lost == ("gain over [nothing]: 0, asked >= 1.",)


def test_it_knows_the_machine() -> None:
    made = Evidence(slug="a", claim="b", measure="c", baseline=0, measured=1, checks=(), tables={})
    assert "packages" in made.environment


def test_saving_writes_json_and_pictures(tmp_path: Path) -> None:
    made = evidence(pictures={"grid": "<svg/>"})
    paths = made.save(tmp_path / "new")
    assert [path.name for path in paths] == ["evidence.json", "grid.svg"]
    assert paths[1].read_text(encoding="utf-8") == "<svg/>"
    assert Evidence.from_dict(json.loads(paths[0].read_text(encoding="utf-8"))) == made
