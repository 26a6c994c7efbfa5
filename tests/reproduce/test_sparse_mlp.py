import functools
from collections.abc import Mapping

import pytest

from sartor.reproduce.evidence import Evidence
from sartor.reproduce.sparse_mlp import judge, losses, run
from sartor.reproduce.sparse_mlp_training import (
    BOTH,
    MIXER,
    NETS,
    ONE,
    SPARSE,
    UNBALANCED,
    Schedule,
    Trained,
    entropy,
    train_all,
)
from sartor.testing import EvidenceContract

EVEN = {"blocks.2": [0.25] * 4, "blocks.3": [0.25] * 4}
UNEVEN = {"blocks.2": [0.25] * 4, "blocks.3": [0.7, 0.1, 0.1, 0.1]}


def trained(
    accuracy: float = 0.8,
    *,
    params: int = 100,
    flops: int = 100,
    shares: Mapping[str, list[float]] | None = None,
    seconds: float = 1.0,
) -> Trained:
    return Trained(
        params=params,
        flops=flops,
        selection=accuracy,
        accuracy=accuracy,
        seconds=seconds,
        shares=shares or {},
    )


def result(**more: Trained) -> dict[str, Trained]:
    made = {
        MIXER: trained(),
        ONE: trained(flops=108),
        SPARSE: trained(0.85, params=130, flops=110, shares=EVEN, seconds=1.5),
        BOTH: trained(0.84, params=200, flops=110, shares=EVEN),
        UNBALANCED: trained(0.84, params=130, flops=110, shares=UNEVEN),
    }
    return {**made, **more}


def test_entropy_and_shares_are_those_of_the_worst_layer() -> None:
    assert entropy([0.25] * 4) == pytest.approx(1)
    assert entropy([1.0, 0.0, 0.0, 0.0]) == 0
    assert trained(shares=UNEVEN).least == pytest.approx(0.4)
    assert trained(shares=UNEVEN).entropy == pytest.approx(entropy([0.7, 0.1, 0.1, 0.1]))


def test_the_rules_hold_for_a_net_that_is_as_good() -> None:
    checks = judge([result(), result()])
    assert all(check.passed for check in checks)
    (told,) = losses([result()])
    assert "1.50 times the CPU seconds" in told


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({"flops": 116}, "operations"),
        ({"params": 119}, "parameters"),
        ({"shares": {"a": [0.04, 0.32, 0.32, 0.32]}}, "smallest share"),
        ({"shares": {"a": [0.75, 0.09, 0.08, 0.08]}}, "entropy of"),
        ({"accuracy": 0.785}, "accuracy, minus that of the Mixer"),
    ],
)
def test_each_rule_can_fail(changed: dict, asked: str) -> None:
    good = {"accuracy": 0.85, "params": 130, "flops": 110, "shares": EVEN}
    results = [result(**{SPARSE: trained(**{**good, **changed}), ONE: trained(0.7)})]
    broken = [c.asked for c in judge(results) if c.decides and not c.passed]
    assert len(broken) == 1 and asked in broken[0]


def test_a_gain_that_the_control_has_too_is_not_routing_s() -> None:
    checks = judge([result(**{ONE: trained(0.85, flops=108)})])
    assert all(check.passed for check in checks if check.decides)
    lost = [check.asked for check in checks if not check.passed]
    assert lost == ["accuracy, routing's own gain over one expert"]


def test_the_nets_are_the_comparison_that_is_promised() -> None:
    assert NETS[SPARSE].kwargs == NETS[UNBALANCED].kwargs
    assert NETS[SPARSE].balance > 0 == NETS[UNBALANCED].balance == NETS[ONE].balance
    assert NETS[ONE].kwargs["num_sparse"] == NETS[SPARSE].kwargs["num_sparse"] == 2


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_counts_do_not_depend_on_the_training(self) -> None:
        (rows,) = quick_run().tables.values()
        assert [row["parameters"] for row in rows] == [142_986, 124_554, 183_754, 284_042, 183_754]
        first, second = quick_run().checks[:2]
        assert first.passed and second.passed

    def test_a_seed_gives_the_same_again(self) -> None:
        schedule = Schedule(epochs=1, noise=0.2)
        one, other = (train_all(0, schedule) for _ in range(2))
        assert {n: t.accuracy for n, t in one.items()} == {n: t.accuracy for n, t in other.items()}
