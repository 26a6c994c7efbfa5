from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from sartor.core import ArtifactError, FamilyError, Recipe, Step, Task
from sartor.core.files import write_json
from sartor.nn import build, load_family, preferred_input, tiny_vit
from sartor.nn import load as load_module
from sartor.nn.from_timm import fitting_kwargs

timm = pytest.importorskip("timm")


def _task(shape: tuple[int, ...] = (1, 32, 32), classes: int = 4) -> Task:
    return Task(
        name="toy",
        train=(),
        selection=(),
        validation=(),
        example=torch.zeros(1, *shape),
        num_classes=classes,
    )


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "def _net(size, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(size * size, classes))\n"
        "def small():\n    return _net(32, 4)\n"
        "def sized():\n    return _net(16, 4)\n"
        "def classes():\n    return _net(32, 5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_nets", None)


def test_models_are_made_for_the_task_and_sorted(factories: None) -> None:
    state = torch.get_rng_state()
    family = load_family(["resnet18", "own_nets:small", "resnet10t"], task=_task())
    assert torch.equal(state, torch.get_rng_state())
    assert family.names == ("small", "resnet10t", "resnet18")
    assert family.members[0].source == {
        "kind": "factory",
        "path": "own_nets:small",
        "kwargs": {},
    }
    assert family.members[1].source == {
        "kind": "timm",
        "name": "resnet10t",
        "kwargs": {"num_classes": 4, "in_chans": 1},
    }
    assert not any(module.training for model in family.models for module in model.modules())


def test_members_are_built_again_from_their_sources(factories: None) -> None:
    family = load_family(["own_nets:small", "resnet10t"], task=_task())
    for member in family:
        again = build(member.source, factories=["own_nets:small"])
        assert again.state_dict().keys() == member.model.state_dict().keys()
        again.load_state_dict(member.model.state_dict())


def test_seed_decides_the_random_weights() -> None:
    def first(seed: int) -> torch.Tensor:
        model = load_family(["resnet10t"], task=_task(), seed=seed).models[0]
        return next(model.parameters()).detach()

    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))


def test_repeated_names_are_numbered() -> None:
    assert load_family(["resnet10t", "resnet10t"], task=_task()).names == (
        "resnet10t",
        "resnet10t-2",
    )


def test_sources_are_taken_as_they_are() -> None:
    sources = [{"kind": "tiny_vit", "kwargs": {"embed_dim": width}} for width in (16, 8)]
    family = load_family(sources, task=_task((1, 8, 8), 10))
    assert [member.source for member in family] == sources[::-1]


def test_own_weights(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=4, in_chans=1)
    path = tmp_path / "own weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    loaded = load_family([f"resnet10t@{path}"], task=_task(), pretrained=True).models[0]
    pairs = zip(model.parameters(), loaded.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(FamilyError, match=r"fc\.weight is \(4, 512\) and should be \(7, 512\)"):
        load_family([f"resnet10t@{path}"], task=_task(classes=7))


def test_published_weights_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    create = timm.create_model

    def record(name: str, *, pretrained: bool, **kwargs: Any) -> nn.Module:
        asked.append(pretrained)
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", record)
    load_family(["resnet10t"], task=_task())
    source = load_family(["resnet10t"], task=_task(), pretrained=True).members[0].source
    build(source)
    assert asked == [False, True, False]


def test_published_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> nn.Module:
        raise ConnectionError("the Hub cannot be reached")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FamilyError, match=r"the Hub cannot be reached.*name@file\.safetensors"):
        load_family(["resnet10t"], pretrained=True)


def test_checkpoint_folder_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"kind": "tiny_vit", "kwargs": {"embed_dim": 8}}
    recipe = Recipe(
        base=({"name": "a", "source": source, "split": None},), steps=(Step(move="anchor"),)
    )
    folder = tmp_path / "points" / "p3"
    write_json(folder / "recipe.json", recipe.to_dict())
    calls: list[Any] = []

    def replay(recipe: Recipe, folder: Any, *, family: Any, factories: Any) -> nn.Module:
        calls.append((recipe, folder, family, factories))
        return tiny_vit(embed_dim=8)

    monkeypatch.setattr(load_module, "attribute", lambda path: replay)
    family = load_family([str(folder)], task=_task((1, 8, 8), 10), factories=["a:b"])
    assert calls == [(recipe, folder, None, ("a:b",))]
    assert family.names == ("p3",)
    assert family.members[0].source == {"kind": "recipe", "recipe": recipe.to_dict()}
    (folder / "recipe.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not valid JSON"):
        load_family([str(folder)])


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "family is empty"),
        (["resnet81"], "timm has no model 'resnet81'; did you mean 'resnet"),
        (["resnet18.nothing_in1k"], "leave the tag after the dot out"),
        (["hf-hub:owner/net"], "is not a checkpoint folder"),
        (["runs/nowhere"], "is not a checkpoint folder, as it has no recipe.json"),
        (["own_nets:smal"], "did you mean 'small'"),
        (["missing_package:net"], "add its folder to PYTHONPATH"),
        (["resnet10t@missing.pt"], "do not exist"),
        (["own_nets:small", "own_nets:sized"], "'sized' does not take.*that the model 'small'"),
        (["own_nets:small", "own_nets:classes"], "'small' and 'classes' give outputs"),
        (["own_nets:classes"], "'classes' gives outputs.*the task has 4 classes"),
    ],
)
def test_bad_families(factories: None, models: list[str], message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        load_family(models, task=_task())


def test_models_of_two_input_sizes_without_a_task() -> None:
    with pytest.raises(
        FamilyError, match=r"'deit_tiny_patch16_224' and 'deit_base_patch16_384' take inputs of"
    ):
        load_family(["deit_tiny_patch16_224", "deit_base_patch16_384"])


@pytest.mark.parametrize(
    ("name", "shape", "kwargs"),
    [
        ("deit_tiny_patch16_224", (3, 224, 224), {"num_classes": 4}),
        ("deit_tiny_patch16_224", (3, 64, 64), {"num_classes": 4, "img_size": 64}),
        ("deit_tiny_patch16_224", (1, 64, 32), {"in_chans": 1, "img_size": [64, 32]}),
        ("resnet18", (3, 64, 64), {"num_classes": 4}),
        ("resnet18", None, {}),
        ("resnet18", (12,), {}),
    ],
)
def test_only_what_differs_is_passed_to_timm(
    name: str, shape: tuple[int, ...] | None, kwargs: dict[str, Any]
) -> None:
    assert fitting_kwargs(name, shape, kwargs.get("num_classes")) == kwargs


def test_rectangular_inputs() -> None:
    family = load_family(["vit_tiny_patch16_224"], task=_task((1, 64, 32)))
    assert build(family.members[0].source)(torch.zeros(1, 1, 64, 32)).shape == (1, 4)


def test_preferred_input() -> None:
    found = preferred_input(["own_nets:small", "resnet18", "vit_tiny_patch16_384"])
    assert found is not None
    assert found.size == (3, 384, 384) and found.mean == (0.485, 0.456, 0.406)
    assert preferred_input([{"kind": "tiny_vit", "kwargs": {}}]) is None


def test_input_smaller_than_a_patch() -> None:
    with pytest.raises(FamilyError, match=r"'deit_tiny_patch16_224' .*input size"):
        load_family(["deit_tiny_patch16_224"], task=_task((3, 8, 8)))
