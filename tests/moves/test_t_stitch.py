import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sartor.core import Family, Frontier, Member, Recipe, RecipeError, Step, Task
from sartor.data.generation import generation_task
from sartor.fit import FitSettings, fit
from sartor.moves.t_stitch import TStitchEngine, TStitchMove
from sartor.nn.sources import seeded
from sartor.nn.t_stitch.ddim import vector_sampler
from sartor.testing import MoveContract

FACTORY = "sartor.nn.t_stitch.ddim:vector_sampler"


def family(*, num_steps: int = 10) -> Family:
    """Two untrained samplers of digits that a recipe can build again."""
    members = []
    for width in (8, 64):
        kwargs = {"width": width, "depth": 1, "num_steps": num_steps}
        with seeded(width):
            model = vector_sampler(**kwargs).eval()
        source = {"kind": "factory", "path": FACTORY, "kwargs": kwargs}
        members.append(Member(name=f"w{width}", model=model, source=source))
    return Family(tuple(members))


def tiny() -> Task:
    return generation_task(samples=30, batch_size=30)


class TestTStitchMove(MoveContract):
    def move(self) -> TStitchMove:
        return TStitchMove(index=6)

    def base(self) -> Family:
        return family()

    def task(self) -> Task:
        return tiny()

    def model(self) -> nn.Module:
        return TStitchEngine().build(family(), tiny())


def test_fit_publishes_a_frontier_of_shares(tmp_path: Path) -> None:
    settings = FitSettings(engine="t-stitch", moves=(), routes=4)
    made = fit(family(), tiny(), target="cpu/eager", settings=settings, out=tmp_path / "run")
    assert made.complete and [point.id for point in made.anchors] == ["w8", "w64"]
    stitched = {
        point.id: point for point in (*made.points, *made.others) if point.id.startswith("ts.")
    }
    assert len(stitched) == 4
    ends = [point.measurement.flops for point in made.anchors]
    for point in stitched.values():
        (share, rest) = point.recipe.steps[0].plan["fractions"]
        assert point.measurement.flops == round(share * ends[0] + rest * ends[1])
    loaded = Frontier.load(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "frontier.json").read_text(encoding="utf-8"))["task"][
        "metric"
    ] == ("closeness")
    for point in loaded.points:
        model = point.load_model(factories=[FACTORY])
        quality = tiny().evaluate(model, tiny().validation)
        assert quality == pytest.approx(point.accuracy, rel=1e-5)


def test_a_recipe_that_does_not_fit_its_family() -> None:
    config, base = {"grid": 0.1, "input_shape": [64]}, family()
    plan = {"index": 6, "fractions": [0.4, 0.6]}
    sampler = TStitchMove.rebuild(base, Step(move="t-stitch", config=config, plan=plan), Path())
    assert [sampler.denoiser.model_index(t) for t in sampler.timesteps].count(0) == 4
    for wrong in ({"index": 5}, {"index": 99}, {"fractions": [0.6, 0.4]}):
        step = Step(move="t-stitch", config=config, plan={**plan, **wrong})
        with pytest.raises(RecipeError, match="which it does not have"):
            TStitchMove.rebuild(base, step, Path())
    with pytest.raises(RecipeError, match="must come first"):
        step = Step(move="t-stitch", config=config, plan=plan)
        TStitchMove.rebuild(nn.Identity(), step, Path())
    with pytest.raises(RecipeError):
        step = Step(move="t-stitch", config={**config, "more": 1}, plan=plan)
        TStitchMove.rebuild(base, step, Path())
    assert Recipe(base=(), steps=(step,)).moves == ("t-stitch",)


def test_other_models_are_refused() -> None:
    context = type("Context", (), {"task": tiny()})()
    with pytest.raises(RecipeError, match="takes a stitched sampler, got Linear"):
        TStitchMove(index=0).apply(nn.Linear(2, 2), context)
    assert torch.equal(tiny().example, torch.zeros(1, 64))
