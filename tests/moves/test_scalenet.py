import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sartor.core import Member, MoveContext, RecipeError, Step, Target, Task
from sartor.measure import count_params
from sartor.moves.scalenet import ScaleNetMove, deepen, save_member
from sartor.nn import build, load_family
from sartor.stitch.scalenet import ScaleNetConfig
from sartor.stitch.shared_blocks import tied_names
from sartor.testing import MoveContract, tiny_conv_family, tiny_task, tiny_vit_family

CONFIG = ScaleNetConfig(rank=2, mapping="block")


class TestScaleNet(MoveContract):
    def move(self) -> ScaleNetMove:
        return ScaleNetMove(config=CONFIG)

    def base(self) -> nn.Module:
        return tiny_vit_family().models[1]

    def task(self) -> Task:
        return tiny_task()

    def test_a_family_is_refused(self) -> None:
        with pytest.raises(RecipeError, match="deepens before any model is chosen"):
            ScaleNetMove.rebuild(tiny_vit_family(), Step(move="scalenet"), Path())

    @pytest.mark.parametrize(
        ("step", "message"),
        [
            (Step(move="scalenet", config={"ranks": 2}), "unknown key 'ranks'; did you mean"),
            (Step(move="scalenet", config={"rank": True}), "has a bool at 'rank'"),
            (Step(move="scalenet", config={"rank": 0}), "at least 1, got 0"),
            (Step(move="scalenet", config={"mapping": [0, 7]}), "takes block 7 of 2"),
            (Step(move="scalenet", plan={"layers": 2}), "unknown key 'layers'"),
        ],
    )
    def test_tampered_steps(self, step: Step, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            ScaleNetMove.rebuild(self.base(), step, Path())

    def test_it_trains_the_deep_copy_and_counts_honestly(self, tmp_path: Path) -> None:
        trained: list[nn.Module] = []
        context = MoveContext(
            task=self.task(),
            target=Target.parse("cpu/eager"),
            folder=tmp_path,
            deployed=None,
            recover=trained.append,
        )
        result = self.move().apply(self.base(), context)
        assert trained == [result.model] and len(result.model.blocks) == 4
        before, after = result.report.before, result.report.after
        assert before["params_per_executed"] == 1 > after["params_per_executed"] > 0.5
        assert before["params"] < after["params"] < 1.1 * before["params"]
        assert after["executed_params"] > 1.8 * before["executed_params"]


def small() -> Member:
    return tiny_vit_family().members[1]


def test_a_deepened_member_says_how_it_was_made() -> None:
    base = small()
    before = copy.deepcopy(base.model.state_dict())
    deep = deepen(base, CONFIG)
    assert (deep.name, len(deep.model.blocks), len(base.model.blocks)) == ("vit-16-deep", 4, 2)
    assert deepen(base, CONFIG, name="mine").name == "mine"
    assert all(torch.equal(before[k], v) for k, v in base.model.state_dict().items())
    again = build(json.loads(json.dumps(deep.source)))
    assert tied_names(again) == tied_names(deep.model) and len(tied_names(again)) == 24
    again.load_state_dict(deep.model.state_dict())
    inputs = tiny_task().batch(4)
    assert torch.equal(again(inputs), deep.model(inputs))


def test_a_deepened_member_can_be_deepened_again() -> None:
    twice = deepen(deepen(small(), CONFIG), ScaleNetConfig(num_layers=5, adapter=None))
    again = build(json.loads(json.dumps(twice.source)))
    assert len(again.blocks) == 5
    assert count_params(again) == count_params(twice.model)


def test_a_split_goes_with_it() -> None:
    base = tiny_conv_family().members[0]
    deep = deepen(base, ScaleNetConfig(blocks="body", adapter=None))
    assert deep.split == base.split and len(deep.model.body) == 6


def test_a_checkpoint_folder_brings_the_weights_and_the_sharing(tmp_path: Path) -> None:
    deep = deepen(small(), CONFIG)
    with torch.no_grad():
        for parameter in deep.model.parameters():
            parameter.add_(0.1)
    folder = save_member(deep, tmp_path / "deep")
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "recipe.json"]
    family = load_family([str(folder), {"kind": "tiny_vit"}], task=tiny_task())
    (loaded,) = [member for member in family if member.name == "deep"]
    inputs = tiny_task().batch(4)
    assert torch.equal(loaded.model(inputs), deep.model(inputs))
    assert tied_names(loaded.model) == tied_names(deep.model)


def test_only_what_a_recipe_made_is_saved(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'vit-16' was not made by a recipe but is of the kind"):
        save_member(small(), tmp_path)
    assert not list(tmp_path.iterdir())
