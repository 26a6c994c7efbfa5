import functools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import Task
from sartor.reproduce.evidence import Evidence
from sartor.reproduce.sn_net_training import Scored
from sartor.reproduce.sn_netv2 import chi_square, run, unequal_outputs
from sartor.reproduce.sn_netv2_training import METHODS, area, fresh, frontier
from sartor.testing import EvidenceContract, tiny_task, tiny_vit_family


def scored(flops: int, selection: float, validation: float) -> Scored:
    return Scored(name="", flops=flops, params=0, selection=selection, validation=validation)


def test_the_frontier_is_chosen_on_the_selection_split() -> None:
    points = [
        scored(10, 0.4, 0.4),
        scored(100, 0.3, 0.9),  # not chosen
        scored(1000, 0.7, 0.6),
        scored(1000, 0.6, 0.8),
    ]
    assert [p.validation for p in frontier(points)] == [0.4, 0.6]
    # over log10(FLOPs) up to 4, above 0.1
    assert area(points, 10_000) == pytest.approx(2 * 0.3 + 1 * 0.5)
    assert area(points, 1000) == pytest.approx(2 * 0.3)


def test_chi_square_by_hand() -> None:
    # 10 draws over two groups, 5 expected in each
    assert chi_square([[0, 1], [2]], [0] * 4 + [1] * 4 + [2] * 2) == pytest.approx(9 / 5 + 9 / 5)


def _pairs(task: Task) -> TensorDataset:
    inputs, labels = zip(*task.train, strict=True)
    return TensorDataset(torch.cat(inputs), torch.cat(labels))


def test_the_methods_are_the_cards() -> None:
    family = tiny_vit_family(depth=4)
    family = type(family)((family.members[0], family.members[2]))
    task = tiny_task()
    nets = [fresh(method, family, task, 0) for method in METHODS]
    assert [len(net.configs) for net in nets] == [14, 14, 14, 5]
    assert [method.grouped for method in METHODS] == [False, True, True, False]
    # the same least squares in every row, also where the data are drawn at random
    shuffled = replace(task, train=DataLoader(_pairs(task), batch_size=20, shuffle=True))
    nets = [fresh(method, family, shuffled, 0) for method in METHODS]
    weights = [net.stitch_layers["a0-1_s0_n1"].weight for net in nets]
    assert all(torch.equal(weights[0], weight) for weight in weights)
    assert unequal_outputs(family, shuffled, 0) == 0


def test_a_correction_that_does_something_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import sartor.reproduce.sn_netv2 as module

    def corrected(method: object, *given: object) -> nn.Module:
        net = fresh(method, *given)
        if method is METHODS[2]:
            with torch.no_grad():
                net.stitch_layers["a0-1_s0_n0"].lora_B.add_(1)
        return net

    monkeypatch.setattr(module, "fresh", corrected)
    family = tiny_vit_family(depth=2)
    family = type(family)((family.members[0], family.members[2]))
    assert unequal_outputs(family, tiny_task(), 0) == 1


@functools.cache
def quick_run() -> Evidence:
    return run(quick=True)


@pytest.mark.slow
class TestQuickRun(EvidenceContract):
    def evidence(self) -> Evidence:
        return quick_run()

    def test_what_does_not_hang_on_training_holds(self) -> None:
        made = quick_run()
        checks = {check.asked: check for check in made.checks}
        assert len(checks) == 11 and sum(c.decides for c in checks.values()) == 7
        for words in (
            "two-way over one-way",
            "range of FLOPs",
            "chi-square",
            "low over",
            "any bit",
        ):
            (check,) = [c for asked, c in checks.items() if words in asked]
            assert check.passed, check
        assert len(made.tables["After equally many steps of joint training"]) == 4
