import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.core import Budget, BudgetError
from sartor.core.budget import QUANTITIES

REFERENCE = {
    "latency_ms": 20.0,
    "size_bytes": 8e6,
    "params": 2e6,
    "flops": 1e9,
    "accuracy": 0.9,
}


@pytest.mark.parametrize(
    ("text", "field", "limit", "relative"),
    [
        ("latency<=12ms", "latency_ms", 12.0, False),
        ("latency<=250us", "latency_ms", 0.25, False),
        ("latency <= 1.5 s", "latency_ms", 1500.0, False),
        ("LATENCY<=12MS", "latency_ms", 12.0, False),
        ("size<=20MB", "size_bytes", 20e6, False),
        ("size<=2KiB", "size_bytes", 2048.0, False),
        ("size<=7B", "size_bytes", 7.0, False),
        ("params<=60%", "params", 0.6, True),
        ("params<=5.7M", "params", 5.7e6, False),
        ("flops<=2e9", "flops", 2e9, False),
        ("flops<=1.8G", "flops", 1.8e9, False),
        ("accuracy>=0.9", "accuracy", 0.9, False),
    ],
)
def test_one_constraint(text: str, field: str, limit: float, relative: bool) -> None:
    (constraint,) = Budget.parse(text).constraints
    assert (constraint.field, constraint.relative) == (field, relative)
    assert constraint.limit == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize("nothing", [None, "", " , ", [], ["", " "]])
def test_no_constraint_always_holds(nothing: object) -> None:
    budget = Budget.parse(nothing)  # type: ignore[arg-type]
    assert budget == Budget() and str(budget) == "" and budget.costs == ()
    assert budget.broken({}, {}) == [] and budget.excess({}, {}) == 0


def test_lists_and_commas_combine() -> None:
    budget = Budget.parse(["latency<=12ms, size<=50%", "accuracy>=0.5", "latency<=10ms"])
    assert budget == Budget.parse("latency<=12ms,size<=50%,accuracy>=0.5,latency<=10ms")
    assert budget.costs == ("latency_ms", "size_bytes")
    assert Budget.parse(budget) is budget


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fast", "cannot be read"),
        ("latency<12ms", "cannot be read"),
        ("latency=12ms", "cannot be read"),
        ("latency<=-1ms", "cannot be read"),
        ("latency<=12ms and size<=1MB", "cannot be read"),
        ("latencie<=12ms", "did you mean 'latency'"),
        ("latency>=12ms", "write 'latency<=12ms'"),
        ("accuracy<=0.9", "write 'accuracy>=0.9'"),
        ("accuracy>=90%", "as a fraction"),
        ("latency<=12", "takes us ms s, or %"),
        ("size<=12ms", "the unit 'ms'"),
        ("params<=1.2.3", "is no number"),
        ("params<=.", "is no number"),
        ("params<=0", "out of range"),
        ("accuracy>=1.01", "out of range"),
        ("flops<=1e999", "out of range"),
    ],
)
def test_refusals_say_what_to_do(text: str, says: str) -> None:
    with pytest.raises(BudgetError, match=says.replace("(", r"\(")) as caught:
        Budget.parse(text)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


UNITS = [(quantity, unit) for quantity, (_, _, units) in QUANTITIES.items() for unit in units]
amounts = st.floats(min_value=1e-3, max_value=1.0, exclude_min=True).map(lambda x: f"{x:.6g}")


@given(st.lists(st.tuples(st.sampled_from(UNITS), amounts, st.booleans()), max_size=5))
def test_text_round_trip(parts: list[tuple[tuple[str, str], str, bool]]) -> None:
    texts = []
    for (quantity, unit), amount, relative in parts:
        unit = "%" if relative and quantity != "accuracy" else unit
        texts.append(f"{quantity}{QUANTITIES[quantity][1]}{amount}{unit}")
    budget = Budget.parse(texts)
    assert str(budget) == ", ".join(texts)
    assert Budget.parse(str(budget)) == budget
    for constraint, ((quantity, _), amount, _) in zip(budget.constraints, parts, strict=True):
        assert constraint.quantity == quantity and math.isfinite(constraint.limit)
        assert constraint.limit > 0 and amount in constraint.text


@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused_in_one_line(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except BudgetError as error:
        assert str(error)
    else:
        assert Budget.parse(str(budget)) == budget


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_excess_is_a_share_of_the_bound(value: float, bound: float) -> None:
    (upper,) = Budget.parse(f"latency<={bound!r}ms").constraints
    excess = upper.excess({"latency_ms": value}, REFERENCE)
    assert excess == pytest.approx(value / bound - 1, abs=1e-9)
    assert (excess > 0) == (value > upper.limit)


def test_relative_bounds_follow_the_largest_anchor() -> None:
    budget = Budget.parse("params<=60%, accuracy>=0.95, latency<=10ms")
    values = {**REFERENCE, "params": 1.0e6}
    assert budget.constraints[0].absolute(REFERENCE) == 1.2e6
    assert [c.quantity for c in budget.broken(values, REFERENCE)] == ["latency", "accuracy"]
    assert budget.excess(values, REFERENCE) == pytest.approx(1.0)


def test_a_share_of_nothing_is_no_division_by_zero() -> None:
    (bound,) = Budget.parse("flops<=50%").constraints
    assert bound.excess({"flops": 3.0}, {"flops": 0.0}) == 3.0
