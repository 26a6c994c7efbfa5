import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sartor.compress.prune import PruneConfig
from sartor.core import (
    ArtifactError,
    Family,
    FamilyError,
    MoveContext,
    Recipe,
    RecipeError,
    Step,
    Target,
)
from sartor.moves.prune import PruneMove
from sartor.moves.replay import describe_base, replay
from sartor.moves.sn_net import SnNetMove
from sartor.stitch import stitch
from sartor.testing import tiny_conv_family, tiny_task, tiny_vit_family
from sartor.train import save_tensors

ANCHOR = Step(move="anchor", plan={"index": 1})


def recipe(*steps: Step, family: Family | None = None) -> Recipe:
    return Recipe(base=describe_base(family or tiny_vit_family()), steps=steps)


def through_json(value: Recipe) -> Recipe:
    return Recipe.from_dict(json.loads(json.dumps(value.to_dict())))


def test_stitch_then_prune_comes_back_from_json_and_weights_alone(tmp_path: Path) -> None:
    task, family = tiny_task(), tiny_vit_family()
    context = MoveContext(
        task=task,
        target=Target.parse("cpu/eager"),
        folder=tmp_path,
        deployed=None,
        recover=lambda model: None,
    )
    net = stitch(family, task.example)
    net.init_stitches(task.batch(32))
    first = SnNetMove(index=8).apply(net, context)
    second = PruneMove(config=PruneConfig(ratio=0.5)).apply(first.model, context)
    save_tensors(second.model.state_dict(), tmp_path / "model.safetensors")
    made = through_json(recipe(first.step, second.step))
    state = torch.get_rng_state()
    again = replay(made, tmp_path)
    assert torch.equal(state, torch.get_rng_state()) and not again.training
    inputs = task.batch(8)
    with torch.inference_mode():
        assert torch.equal(again(inputs), second.model.eval()(inputs))


def test_without_weights_the_structure_is_built() -> None:
    model = replay(recipe(ANCHOR), None)
    assert model.embed_dim == 16 and model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_models_that_only_python_holds_come_from_the_family(tmp_path: Path) -> None:
    family = tiny_conv_family()
    save_tensors(family.models[1].state_dict(), tmp_path / "model.safetensors")
    made = through_json(recipe(ANCHOR, family=family))
    assert made.base[0]["split"]["blocks"] == ["body"]
    with pytest.raises(FamilyError, match="pass family="):
        replay(made, tmp_path)
    again = replay(made, tmp_path, family=family)
    inputs = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert again is not family.models[1]
    assert torch.equal(again(inputs), family.models[1](inputs))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((), "has no steps"),
        ((Step(move="prun"),), "unknown move 'prun'; did you mean 'prune'"),
        ((Step(move="os.system"),), "unknown move 'os.system'"),
        ((ANCHOR, ANCHOR), "anchor 1, which its family lacks"),
        ((replace(ANCHOR, plan={"index": 1, "code": "x"}),), "unknown key 'code'"),
        ((replace(ANCHOR, plan={}),), "lacks the key 'index'"),
        ((replace(ANCHOR, config={"index": 1}),), "unknown key 'index'"),
        ((ANCHOR, Step(move="prune", plan={"tensors": {}})), "lacks the key 'attributes'"),
        ((ANCHOR, Step(move="int8-dynamic"), ANCHOR), "int8-dynamic"),
    ],
)
def test_bad_recipes_are_refused(steps: tuple[Step, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replay(recipe(*steps), None)


def test_a_deployed_file_needs_its_folder() -> None:
    with pytest.raises(RecipeError, match="folder"):
        replay(recipe(ANCHOR, Step(move="int8-dynamic")), None)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_tensors(nn.Linear(2, 2).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="do not fit the recipe"):
        replay(recipe(ANCHOR), tmp_path)


def test_missing_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        replay(recipe(ANCHOR), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        replay(recipe(ANCHOR), tmp_path)
