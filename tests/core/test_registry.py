import importlib
from dataclasses import dataclass, replace

import pytest

from sartor.core import Engine, Move, RecipeError, registry
from sartor.core.errors import MissingPackageError, nearest
from sartor.core.packages import require

ROWS = registry.methods()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.slug)
def test_every_row_leads_somewhere(row: registry.Method) -> None:
    assert callable(registry.attribute(row.verb))
    assert row.verb.startswith(f"sartor.{row.role}.") and row.summary and row.source
    if row.move:
        move = registry.attribute(row.move)
        assert issubclass(move, Move) and move.id == row.slug
        assert move.after <= {"start", *registry.moves()}
    if row.engine:
        engine = registry.attribute(row.engine)
        assert issubclass(engine, Engine) and engine.id == row.slug and row.move
    if row.reproduce:
        assert callable(importlib.import_module(row.reproduce).run)


def test_finding_and_listing() -> None:
    assert registry.find("sn-net").role == "stitch"
    assert {row.slug for row in registry.methods("int8-*")} == {"int8-dynamic", "int8-static"}
    assert {row.role for row in registry.methods("compress")} == {"compress"}
    assert registry.methods("nothing*") == ()
    assert "sn-net" in registry.engines() and "prune" not in registry.engines()
    with pytest.raises(RecipeError, match="did you mean 'sn-net'"):
        registry.find("snnet")


@dataclass
class EntryPoint:
    row: registry.Method

    def load(self) -> registry.Method:
        return self.row


def test_plug_ins_add_methods_and_cannot_repeat_one(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(registry.find("prune"), slug="mine")
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint(mine)])
    assert registry.find("mine") is mine and registry.moves()["mine"] is mine
    again = replace(mine, slug="prune")
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint(again)])
    with pytest.raises(RecipeError, match="Two methods are called 'prune'"):
        registry.methods()


def test_optional_packages_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require("json") is importlib.import_module("json")

    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingPackageError, match=r"'timm'.*pip install 'sartor\[vision\]'"):
        require("timm.models")

    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'inner'", name="inner")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="inner"):
        require("timm")


def test_nearest_words() -> None:
    assert nearest("latencie", ["latency", "size"]) == "did you mean 'latency'?"
    assert nearest("zzz", ["b", "a"]) == "allowed: a, b."
