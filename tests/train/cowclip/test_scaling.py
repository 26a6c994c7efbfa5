import itertools
import math

import pytest

from sartor.core import RecipeError
from sartor.train.cowclip.scaling import (
    cowclip_scaling,
    dense_warmup,
    linear_scaling,
    sqrt_scaling,
)

#: batch in K -> dense rate in 1e-4 and penalty in 1e-5, DeepFM on Criteo, as published
PUBLISHED = {
    1: (8, 1),
    2: (11.31, 2),
    4: (16, 4),
    8: (22.62, 8),
    16: (32, 16),
    32: (45.25, 32),
    64: (64, 64),
    128: (90.50, 128),
}


def test_the_cards_numbers() -> None:
    rates = cowclip_scaling(1024, 131072, 8e-4, 1e-4, 1e-5)
    assert rates.lr_dense == pytest.approx(9.0509667e-3, abs=5e-10)
    assert (rates.lr_embedding, rates.warmup_epochs) == (1e-4, 1)
    assert rates.l2 == pytest.approx(1.28e-3)


@pytest.mark.parametrize("thousands", PUBLISHED)
def test_the_published_table(thousands: int) -> None:
    rates = cowclip_scaling(1024, 1024 * thousands, 8e-4, 1e-4, 1e-5)
    lr, l2 = PUBLISHED[thousands]
    assert rates.lr_dense * 1e4 == pytest.approx(lr, abs=0.011)  # the table cuts decimals off
    assert rates.l2 * 1e5 == pytest.approx(l2)


@pytest.mark.parametrize("rule", [cowclip_scaling, sqrt_scaling, linear_scaling])
def test_rules_leave_the_base_alone_and_compose(rule) -> None:
    same = rule(64, 64, 1e-3, 2e-3, 1e-5)
    assert (same.lr_dense, same.lr_embedding, same.l2) == (1e-3, 2e-3, 1e-5)
    half = rule(64, 256, 1e-3, 2e-3, 1e-5)
    whole = rule(256, 1024, half.lr_dense, half.lr_embedding, half.l2)
    once = rule(64, 1024, 1e-3, 2e-3, 1e-5)
    for name in ("lr_dense", "lr_embedding", "l2"):
        assert getattr(whole, name) == pytest.approx(getattr(once, name))


def test_the_other_rules_by_hand() -> None:
    root, line = (
        sqrt_scaling(64, 1024, 1e-3, 2e-3, 1e-5),
        linear_scaling(64, 1024, 1e-3, 2e-3, 1e-5),
    )
    assert (root.lr_dense, root.lr_embedding, root.l2) == pytest.approx((4e-3, 8e-3, 4e-5))
    assert (line.lr_dense, line.lr_embedding, line.l2) == pytest.approx((1.6e-2, 3.2e-2, 1e-5))
    assert root.warmup_epochs == line.warmup_epochs == 0


def test_warmup_is_a_line_from_the_published_start() -> None:
    rates = [dense_warmup(step, 10, lr=8e-4) for step in range(12)]
    assert rates[0] == 1e-8 and rates[10] == rates[11] == 8e-4
    steps = {round(b - a, 15) for a, b in itertools.pairwise(rates[:11])}
    assert len(steps) == 1 and math.isclose(steps.pop(), (8e-4 - 1e-8) / 10, rel_tol=1e-9)
    assert dense_warmup(0, 0, lr=0.1) == 0.1


@pytest.mark.parametrize(
    "changed", [{0: 0}, {1: 0}, {2: 0.0}, {3: -1.0}, {4: -1e-9}, {2: float("nan")}]
)
@pytest.mark.parametrize("rule", [cowclip_scaling, sqrt_scaling, linear_scaling])
def test_refuses(rule, changed: dict) -> None:
    arguments = {0: 64, 1: 1024, 2: 1e-3, 3: 1e-3, 4: 1e-5} | changed
    with pytest.raises(RecipeError, match="batches of at least 1, rates above 0"):
        rule(*arguments.values())


@pytest.mark.parametrize("word", [{"step": -1}, {"steps": -1}, {"lr": 0.0}, {"start": -1.0}])
def test_warmup_refuses(word: dict) -> None:
    with pytest.raises(RecipeError, match="warm-up takes"):
        dense_warmup(**{"step": 0, "steps": 1, "lr": 0.1, **word})
