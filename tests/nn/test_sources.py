from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sartor.core import FamilyError, RecipeError
from sartor.nn import build
from sartor.nn import sources as sources_module

pytest.importorskip("timm")

_TIMM = {"kind": "timm", "name": "resnet10t", "kwargs": {"num_classes": 4, "in_chans": 1}}
_TINY = {"kind": "tiny_vit", "kwargs": {"embed_dim": 8, "depth": 2}}
_RECIPE = {
    "version": 1,
    "base": [{"name": "a", "source": _TINY, "split": None}],
    "steps": [{"move": "anchor", "config": {}, "plan": {}}],
}


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``homemade.nets`` that leaves a file behind as soon as it is imported."""
    package = tmp_path / "homemade"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'imported')!r}).touch()\n"
        "from torch import nn\n"
        "def net(width=3):\n    return nn.Linear(4, width)\n"
        "def fails():\n    raise RuntimeError('no weights today')\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "imported"
    for name in [name for name in sys.modules if name.split(".")[0] == "homemade"]:
        del sys.modules[name]


@pytest.mark.parametrize("source", [_TIMM, _TINY], ids=["timm", "tiny_vit"])
def test_built_from_json_in_eval_mode_the_same_twice(source: dict[str, Any]) -> None:
    state = torch.get_rng_state()
    first, again = (build(json.loads(json.dumps(source))) for _ in range(2))
    other = build(source, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module.training for module in first.modules())
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_timm_arguments_fit_the_task() -> None:
    assert build(_TIMM)(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


def test_factory_of_a_recipe_is_only_imported_if_allowed(factory: Path) -> None:
    source = {"kind": "factory", "path": "homemade.nets:net", "kwargs": {"width": 5}}
    for allowed in ((), ("homemade.nets:other",), ("homemade.nets",)):
        with pytest.raises(RecipeError, match=r"pass factories=\['homemade.nets:net'\]"):
            build(source, factories=allowed)
    assert not factory.exists() and "homemade" not in sys.modules
    model = build(source, factories=["homemade.nets:net"])
    assert factory.exists() and model(torch.zeros(1, 4)).shape == (1, 5)


@pytest.mark.parametrize(
    ("path", "kwargs", "message"),
    [
        ("homemade.nets:nett", {}, "has no function 'nett'; did you mean 'net'"),
        ("homemade.net:net", {}, "No module named 'homemade.net'"),
        ("homemade.nets:fails", {}, "failed with {} .RuntimeError: no weights today"),
        ("homemade.nets:net", {"depth": 3}, "failed with {'depth': 3} .TypeError"),
        ("homemade.nets:number", {}, "returned a int; it must return a torch.nn.Module"),
        ("nets.py:net", {}, "cannot be imported"),
        ("./nets.py:net", {}, "not of the form package.module:function"),
        ("homemade.nets:", {}, "not of the form package.module:function"),
    ],
)
def test_bad_factories(factory: Path, path: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        build({"kind": "factory", "path": path, "kwargs": kwargs}, factories=[path])


def test_recipe_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def replay(recipe: Any, folder: Any, *, family: Any, factories: Any) -> nn.Module:
        calls.append((recipe.moves, folder, family, factories))
        return nn.Linear(1, 1)

    monkeypatch.setattr(sources_module, "attribute", lambda path: replay)
    model = build({"kind": "recipe", "recipe": _RECIPE}, factories=["a:b"])
    assert calls == [(("anchor",), None, None, ("a:b",))] and not model.training


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "tim"}, "has the kind 'tim'; did you mean 'timm'"),
        ({"kind": ["timm"]}, "has the kind"),
        ({}, "has the kind None"),
        ([], "has the kind None"),
        ({"kind": "timm"}, "lacks the key 'name'"),
        ({"kind": "timm", "name": 3}, "has a int at 'name'"),
        ({"kind": "timm", "name": "resnet18", "weights": "x"}, "unknown key 'weights'"),
        ({"kind": "tiny_vit", "kwargs": {"dim": 3}}, "unknown key 'dim'"),
        ({"kind": "tiny_vit", "kwargs": {"depth": "3"}}, "has a str at 'depth'"),
        ({"kind": "recipe", "recipe": {}}, "lacks the key 'version'"),
    ],
)
def test_bad_sources(source: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "module"}, "pass family="),
        ({"kind": "timm", "name": "resnet81"}, "no model 'resnet81'; did you mean 'resnet"),
        ({"kind": "timm", "name": "hf-hub:owner/net"}, "no model 'hf-hub:owner/net'"),
        ({"kind": "timm", "name": "local-dir:net"}, "no model 'local-dir:net'"),
        ({"kind": "timm", "name": "resnet10t", "kwargs": {"wid": 3}}, "cannot be built with"),
        *(
            (
                {"kind": "timm", "name": "resnet10t", "kwargs": {key: "x"}},
                f"'{key}' of 'resnet10t' does not describe its architecture",
            )
            for key in ("checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir")
        ),
    ],
)
def test_models_that_cannot_be_built(source: Any, message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        build(source)
