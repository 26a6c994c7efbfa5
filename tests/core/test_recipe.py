from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core import Measurement, Recipe, RecipeError, Split, Step, Target
from sartor.core.schema import check_keys

BASE = {"name": "a", "source": {"kind": "timm", "name": "vit"}, "split": None}
RECIPE = Recipe(
    base=(BASE,),
    steps=(Step(move="anchor", plan={"index": 0}), Step(move="prune", config={"ratio": 0.5})),
)

words = st.text(min_size=1, max_size=8)
plain = st.one_of(st.none(), st.booleans(), st.integers(), words, st.lists(st.integers()))
settings = st.dictionaries(words, plain, max_size=3)


@given(
    st.lists(st.builds(lambda m, c, p: Step(move=m, config=c, plan=p), words, settings, settings))
)
def test_round_trip(steps: list[Step]) -> None:
    recipe = Recipe(base=(BASE,))
    for step in steps:
        recipe = recipe.then(step)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.moves == tuple(step.move for step in steps)


def test_then_leaves_the_original() -> None:
    assert RECIPE.then(Step(move="int8-dynamic")).moves == ("anchor", "prune", "int8-dynamic")
    assert RECIPE.moves == ("anchor", "prune")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": []}, "unknown key 'step'; did you mean 'steps'"),
        ({"version": 2}, "version 2"),
        ({"version": True}, "has a bool at 'version'"),
        ({"base": {}}, "has a dict at 'base'"),
        ({"base": [{"name": "a"}]}, "lacks the key 'source'"),
        ({"base": [{**BASE, "splits": None}]}, "did you mean 'split'"),
        ({"base": ["a"]}, "base must be a JSON object, got str"),
        ({"steps": [{"move": "prune", "confg": {}}]}, "did you mean 'config'"),
        ({"steps": [{"config": {}}]}, "lacks the key 'move'"),
        ({"steps": [{"move": 3}]}, "has a int at 'move'"),
        ({"steps": [3]}, "step must be a JSON object, got int"),
    ],
)
def test_unknown_missing_and_mistyped_keys(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Recipe.from_dict({**RECIPE.to_dict(), **change})


def test_a_missing_key() -> None:
    value = RECIPE.to_dict()
    del value["steps"]
    with pytest.raises(RecipeError, match="lacks the key 'steps'"):
        Recipe.from_dict(value)


def test_the_smaller_nouns_check_their_keys_too() -> None:
    measurement = Measurement(
        latency_ms=1, latency_iqr_ms=0.1, warmup=1, repeats=2, flops=3, params=4, size_bytes=5
    )
    full = replace(measurement, peak_memory_bytes=6)
    split = Split(blocks=("blocks",), embed="stem", head=("norm", "head"))
    target = Target(threads=2, batch=8)
    assert Measurement.from_dict(measurement.to_dict()) == measurement
    assert Measurement.from_dict(full.to_dict()) == full
    assert Split.from_dict(split.to_dict()) == split
    assert Target.from_dict(target.to_dict()) == target
    for kind, value in (
        (Measurement, measurement.to_dict()),
        (Split, split.to_dict()),
        (Target, target.to_dict()),
    ):
        with pytest.raises(RecipeError, match="unknown key 'extra'"):
            kind.from_dict({**value, "extra": 1})
        with pytest.raises(RecipeError, match="lacks the key"):
            kind.from_dict({})
    with pytest.raises(RecipeError, match="has a str at 'flops'"):
        Measurement.from_dict({**measurement.to_dict(), "flops": "many"})


def test_a_bool_is_no_number() -> None:
    check_keys({"seconds": 1}, "it", {"seconds": (int, float)}, {})
    check_keys({"done": True}, "it", {"done": bool}, {})
    with pytest.raises(RecipeError, match="it has a bool at 'seconds'"):
        check_keys({"seconds": True}, "it", {"seconds": (int, float)}, {})
