"""The planner's pure functions, against definitions written out by hand."""

from hypothesis import given
from hypothesis import strategies as st

from sartor.core import Measurement, Point, Recipe, Step
from sartor.fit.planner import Scored, helps, judge, promising, twins, variants

FLOPS = st.integers(1, 10**9)
SCORES = st.lists(st.tuples(FLOPS, st.integers(0, 100)), min_size=1, max_size=30)


def scored(pairs):
    return [
        Scored(index=i, name=str(i), flops=f, accuracy=a / 100) for i, (f, a) in enumerate(pairs)
    ]


def point(id, accuracy, latency, *, size=100, iqr=0.0, parent=None, move="anchor"):
    cost = Measurement(
        latency_ms=latency,
        latency_iqr_ms=iqr,
        warmup=1,
        repeats=9,
        flops=1,
        params=1,
        size_bytes=size,
    )
    base = ({"name": "a", "source": {"kind": "module"}},)
    recipe = Recipe(base=base, steps=(Step(move=move),))
    return Point(
        id=id, accuracy=accuracy, measurement=cost, recipe=recipe, seconds=0, parent=parent
    )


@given(SCORES, st.integers(1, 12))
def test_promising_keeps_the_ends_of_the_front(pairs, limit):
    every = scored(pairs)
    chosen = promising(every, limit)
    assert len(chosen) == len({c.index for c in chosen}) <= limit
    assert [c.flops for c in chosen] == sorted(c.flops for c in chosen)
    assert max(c.accuracy for c in chosen) == max(s.accuracy for s in every)
    if limit > 1:
        assert min(c.flops for c in chosen) == min(s.flops for s in every)


def test_promising_spreads_over_the_logarithm_of_flops():
    every = scored([(10, 10), (11, 11), (12, 12), (100, 50), (1000, 90)])
    assert [c.flops for c in promising(every, 3)] == [10, 100, 1000]


def test_dominated_routes_only_fill_what_the_front_leaves():
    every = scored([(10, 50), (20, 40), (1000, 90)])
    assert [c.flops for c in promising(every, 2)] == [10, 1000]
    assert [c.flops for c in promising(every, 3)] == [10, 20, 1000]


def test_variants_follow_order_and_runtime():
    allowed = ("prune", "int8-dynamic", "int8-static")
    on_anchor = variants("m", ("anchor",), allowed, "onnxruntime", (0.25, 0.5))
    assert [v.id for v in on_anchor] == [
        "m+prune25",
        "m+prune50",
        "m+int8-dynamic",
        "m+int8-static",
    ]
    assert variants("m", ("anchor", "int8-dynamic"), allowed, "onnxruntime", (0.5,)) == []
    assert [v.move for v in variants("m", ("sn-net",), allowed, "eager", (0.5,))] == ["prune"]
    after = variants("m", ("sn-net", "prune"), allowed, "onnxruntime", (0.5,))
    assert [v.move for v in after] == ["int8-dynamic", "int8-static"]


def test_helping_means_faster_beyond_noise_or_smaller():
    parent = point("p", 0.9, 10, iqr=1).values
    assert helps(point("c", 0.9, 8, iqr=1).values, parent)[0]
    assert not helps(point("c", 0.9, 9.5, iqr=1).values, parent)[0]
    assert helps(point("c", 0.9, 12, size=50).values, parent)[0]
    assert "latency 10 -> 12 ms" in helps(point("c", 0.9, 12).values, parent)[1]
    said = helps(point("c", 0.9, 9.5, iqr=1).values, parent)[1]
    assert said.startswith("neither smaller nor faster beyond the spread of 1 ms on this target: ")


def test_judge_drops_what_gained_nothing_even_if_it_is_accurate():
    rows = judge(
        [
            point("a", 0.8, 10),
            point("a+x", 0.95, 12, parent="a", move="int8-static"),
            point("b", 0.7, 11),
            point("c", 0.6, 5),
        ],
        ["latency_ms"],
    )
    status = {p.id: p.status for p in rows}
    assert status == {"a": "frontier", "a+x": "dropped", "b": "dominated", "c": "frontier"}
    reasons = {p.id: p.reason for p in rows}
    assert reasons["a+x"].startswith("int8-static is neither smaller nor faster on this target")
    assert reasons["b"].startswith("a is as accurate") and not reasons["a"]


def test_judge_weighs_every_cost():
    rows = [point("a", 0.8, 10, size=50), point("b", 0.8, 5, size=90)]
    assert [p.status for p in judge(rows, ["latency_ms"])] == ["dominated", "frontier"]
    assert [p.status for p in judge(rows, ["latency_ms", "size_bytes"])] == ["frontier"] * 2


def test_models_of_one_shape_are_named_with_the_first_of_them():
    assert twins({"large": (8, 8), "small": (4,), "joint": (8, 8), "again": (8, 8)}) == {
        "joint": "large",
        "again": "large",
    }
    assert twins({}) == {}
